//! A connection from its first byte to its last: login, then the session, then the end.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::digest::Digests;
use super::input::{Filled, Input};
use super::login::{Admitted, LOGIN_SEGMENT, Login, Then};
use super::output::Output;
use super::poller::Poller;
use super::registry::{Connected, Seat};
use super::server::Shared;
use super::session::Session;

/// How long the other side has to take the last words and close its end.
const FAREWELL: Duration = Duration::from_millis(500);

/// Serves one connection.
pub(super) fn serve(shared: &Arc<Shared>, socket: &TcpStream, peer: SocketAddr, place: &Connected) {
    if let Err(error) = converse(shared, socket, peer, place)
        && shared.may_say()
    {
        tracing::info!(%error, %peer, "an iSCSI connection broke");
    }
    farewell(socket);
}

fn converse(
    shared: &Arc<Shared>,
    socket: &TcpStream,
    peer: SocketAddr,
    place: &Connected,
) -> io::Result<()> {
    prepare(socket, shared.policy.limits.answer_time)?;
    let mut poller = Poller::new(socket, &place.bell)?;
    let mut input = Input::new(LOGIN_SEGMENT);
    let mut output = Output::default();
    let Some((admitted, seat)) =
        log_in(shared, (socket, peer), place, &mut poller, (&mut input, &mut output))?
    else {
        flush(socket, &mut poller, &mut output, FAREWELL)?;
        return Ok(());
    };
    input.set_limit(shared.policy.limits.receive_segment);
    tracing::info!(
        initiator = %admitted.initiator, isid = %admitted.isid, tsih = seat.tsih, %peer,
        discovery = admitted.discovery, "an iSCSI session begins",
    );
    let mut session = Session::new(shared, &admitted, &seat, (socket.local_addr()?, output))?;
    let end = session.run(socket, place, &mut poller, &mut input);
    tracing::info!(
        initiator = %admitted.initiator, tsih = seat.tsih, reason = %end, "an iSCSI session ends",
    );
    // What was said last should arrive even while commands of the session end.
    let sent = flush(socket, &mut poller, session.output(), FAREWELL);
    session.end();
    sent
}

/// Sets the socket up: small PDUs go at once, and a peer that vanished is noticed.
fn prepare(socket: &TcpStream, patience: Duration) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(socket, 3)?;
    let patience = u32::try_from(patience.as_millis() * 2).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(socket, patience)?;
    Ok(())
}

/// Logs an initiator in. Without a result it was turned away, or went.
pub(super) fn log_in(
    shared: &Arc<Shared>,
    (mut socket, peer): (&TcpStream, SocketAddr),
    place: &Connected,
    poller: &mut Poller,
    (input, output): (&mut Input, &mut Output),
) -> io::Result<Option<(Admitted, Seat)>> {
    let deadline = Instant::now() + shared.policy.limits.login_time;
    let mut login = Login::new(&shared.policy);
    loop {
        while let Some((pdu, len)) = input.first(Digests::default()).map_err(io::Error::other)? {
            let request = pdu.header;
            let mut answer = login.request(&pdu, |tsih| shared.registry.knows(tsih));
            input.consume(len);
            let mut result = None;
            if answer.then == Then::Enter
                && let Some(admitted) = login.admitted()
            {
                match shared.registry.admit(&admitted, peer, &place.bell, deadline) {
                    Ok(seat) => {
                        answer.header.set_u16(14, seat.tsih);
                        result = Some((admitted, seat));
                    }
                    Err(failure) => {
                        let why = "no place for the session".to_owned();
                        answer = login.fail(&request, failure, why);
                    }
                }
            }
            output.push(&mut answer.header, &answer.text, Digests::default());
            if let Then::Close(reason) = &answer.then {
                if shared.may_say() {
                    let initiator = login.initiator().map(tracing::field::display);
                    tracing::warn!(initiator, %peer, reason, "an iSCSI login is refused");
                }
                return Ok(None);
            }
            if result.is_some() {
                return Ok(result);
            }
        }
        output.flush(&mut socket)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || place.bell.order().is_some() {
            return Ok(None);
        }
        let asked = (output.is_empty(), !output.is_empty());
        if poller.wait(socket, asked, left)?.readable && input.fill(&mut socket)? == Filled::Closed
        {
            return Ok(None);
        }
    }
}

/// Sends what is left, for so long at most.
fn flush(
    mut socket: &TcpStream,
    poller: &mut Poller,
    output: &mut Output,
    patience: Duration,
) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        output.flush(&mut socket)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if output.is_empty() || left.is_zero() {
            return Ok(());
        }
        // The bell may ring all the while.
        let pause = Duration::from_millis(10).min(left);
        std::thread::sleep(pause / 10);
        poller.wait(socket, (false, true), pause)?;
    }
}

/// Closes the connection so that what was sent arrives: with bytes unread, the kernel would have
/// the other side throw away what it did not read yet.
fn farewell(mut socket: &TcpStream) {
    let deadline = Instant::now() + FAREWELL;
    let mut waste = [0; 4096];
    let quiet = socket.shutdown(Shutdown::Write).is_ok()
        && socket.set_nonblocking(false).is_ok()
        && socket.set_read_timeout(Some(FAREWELL / 5)).is_ok();
    while quiet && Instant::now() < deadline && socket.read(&mut waste).is_ok_and(|n| n > 0) {}
}
