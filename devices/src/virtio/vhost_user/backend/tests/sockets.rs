use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;

use super::front_end::{FrontEnd, Hold, Server, eventually};
use crate::virtio::vhost_user::backend::{BackEnd, BackEndError};

fn listen(path: &std::path::Path) -> Result<BackEnd, BackEndError> {
    BackEnd::listen(path, Box::new(Hold::new()), Box::new(|| ()))
}

#[test]
fn a_socket_is_for_its_user_and_goes_with_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let back_end = listen(&path).unwrap();
    assert_eq!(back_end.path(), path);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(listen(&path), Err(BackEndError::InUse(_))));
    drop(back_end);
    assert!(!path.exists());
}

#[test]
fn a_socket_that_nobody_listens_on_is_replaced_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    let back_end = listen(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(back_end);
    assert!(path.exists(), "another server's by now");

    let file = folder.path().join("file");
    std::fs::write(&file, "text").unwrap();
    assert!(matches!(listen(&file), Err(BackEndError::NotSocket(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
    assert!(matches!(listen(&folder.path().join("no/socket")), Err(BackEndError::Listen { .. })));
}

#[test]
fn one_front_end_at_a_time_and_the_next_when_it_is_gone() {
    let server = Server::new(1);
    let mut front = FrontEnd::new(&server, 1, 16);
    front.start_all();
    let status = server.back_end.status();
    assert!(status.connected);
    assert_eq!(status.peer, Some(std::process::id()));

    let mut second = UnixStream::connect(server.back_end.path()).unwrap();
    assert_eq!(second.read(&mut [0]).unwrap(), 0, "turned away");
    assert_eq!(front.write(0, 0, 5), 0, "the first is served on");

    // Dies with a request under way.
    front.send_read(0, 0);
    drop(front);
    let mut front = FrontEnd::new(&server, 1, 16);
    front.start_all();
    assert_eq!(front.read(0, 0), (0, 5));
    assert_eq!(server.lost.load(Ordering::SeqCst), 1);
    assert_eq!(server.back_end.status().connections, 2);
    drop(front);
    eventually(|| !server.back_end.status().connected);
}

#[test]
fn one_that_says_nothing_is_not_lost() {
    let server = Server::new(1);
    drop(UnixStream::connect(server.back_end.path()).unwrap());
    eventually(|| {
        let status = server.back_end.status();
        status.connections == 1 && !status.connected
    });
    assert_eq!(server.lost.load(Ordering::SeqCst), 0);
}

#[test]
fn a_server_ends_with_a_front_end_in_the_middle_of_a_message() {
    let server = Server::new(1);
    let mut socket = UnixStream::connect(server.back_end.path()).unwrap();
    std::io::Write::write_all(&mut socket, &[1, 0, 0]).unwrap();
    eventually(|| server.back_end.status().connected);
    drop(server);
    assert_eq!(socket.read(&mut [0]).unwrap_or(0), 0);
}
