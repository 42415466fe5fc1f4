//! Login over the wire: names, secrets, discovery.

use super::*;
use crate::iscsi::chap::Algorithm;
use crate::iscsi::secrets::{ChapSecrets, Secret};

/// The status that a first request with these pairs gets.
fn status(server: &Server, stage: u8, next: Option<u8>, pairs: &[(&str, &str)]) -> u16 {
    let mut initiator = Initiator::connect(server);
    let (header, _) = initiator.login_step(stage, next, pairs);
    assert_eq!(header.opcode(), opcode::LOGIN_RESPONSE);
    if header.u16(36) != 0 {
        initiator.closed();
    }
    header.u16(36)
}

#[test]
fn every_failure_has_its_status() {
    let server = server();
    let me = ("InitiatorName", INITIATOR);
    let target = ("TargetName", TARGET);
    for (stage, next, pairs, wanted) in [
        (1, Some(3), vec![me, target], 0),
        (0, Some(3), vec![me, target], 0),
        (0, Some(1), vec![me, target, ("AuthMethod", "CHAP,None")], 0),
        (1, Some(3), vec![me, ("SessionType", "Discovery")], 0),
        (1, Some(3), vec![target], 0x0207),
        (1, Some(3), vec![me], 0x0207),
        (1, Some(3), vec![me, ("TargetName", "iqn.2026-01.org.example:other")], 0x0203),
        (1, Some(3), vec![("InitiatorName", "iqn.a b"), target], 0x0200),
        (1, Some(3), vec![("InitiatorName", "iqn.a,i,0x1"), target], 0x0200),
        (1, Some(3), vec![("InitiatorName", "root"), target], 0x0200),
        (1, Some(3), vec![me, target, ("SessionType", "Fun")], 0x0209),
        (0, Some(1), vec![me, target, ("AuthMethod", "CHAP")], 0x0201),
        (0, Some(1), vec![me, target, ("AuthMethod", "KRB5")], 0x0201),
        (1, Some(1), vec![me, target], 0x0200),
        (1, Some(0), vec![me, target], 0x0200),
        (0, Some(2), vec![me, target], 0x0200),
    ] {
        assert_eq!(status(&server, stage, next, &pairs), wanted, "{pairs:?}");
    }
}

#[test]
fn headers_that_make_no_sense_are_turned_away() {
    let server = server();
    let try_with = |change: &dyn Fn(&mut Header)| {
        let mut initiator = Initiator::connect(&server);
        let mut header = initiator.login_header(0x87);
        change(&mut header);
        let mut text = Vec::new();
        keys::push(&mut text, "InitiatorName", INITIATOR);
        keys::push(&mut text, "TargetName", TARGET);
        initiator.send(header, &text);
        initiator.receive().map(|(header, _)| header.u16(36))
    };
    assert_eq!(try_with(&|_| {}), Some(0));
    assert_eq!(try_with(&|header| _ = header.set(3, &[1])), Some(0x0205), "version");
    assert_eq!(try_with(&|header| _ = header.set_u16(14, 0x7777)), Some(0x020a), "session");
    assert_eq!(try_with(&|header| _ = header.set(0, &[opcode::NOP_OUT])), Some(0x020b));
    assert_eq!(try_with(&|header| _ = header.set(1, &[0xc7])), Some(0x0200), "ends and goes on");

    // A second connection for a session is refused: there is only one.
    let mut first = Initiator::connect(&server);
    let names = [("InitiatorName", INITIATOR), ("TargetName", TARGET)];
    let (answer, _) = first.login_step(1, Some(3), &names);
    let tsih = answer.u16(14);
    assert_eq!(try_with(&|header| _ = header.set_u16(14, tsih)), Some(0x0206));

    // Requests of one login belong together.
    let mut initiator = Initiator::connect(&server);
    initiator.login_step(1, None, &names);
    initiator.isid[0] = 0;
    assert_eq!(initiator.login_step(1, Some(3), &[]).0.u16(36), 0x0200);
    initiator.closed();
}

#[test]
fn text_may_come_in_parts_and_keys_only_once() {
    let server = server();
    let mut initiator = Initiator::connect(&server);
    for part in [&b"InitiatorName=iqn.2026"[..], b"-01.org.example:one\0Targ", b"etName="] {
        let header = initiator.login_header(0x44);
        initiator.send(header, part);
        let (answer, text) = initiator.receive().unwrap();
        assert_eq!((answer.flags(), answer.u16(36), text.len()), (0x04, 0, 0));
    }
    let header = initiator.login_header(0x87);
    initiator.send(header, format!("{TARGET}\0").as_bytes());
    let (answer, text) = initiator.receive().unwrap();
    assert_eq!((answer.flags(), answer.u16(36)), (0x87, 0));
    let answers = texts(&text);
    assert!(answers.contains(&("TargetPortalGroupTag".into(), "1".into())), "{answers:?}");
    assert!(answers.contains(&("MaxRecvDataSegmentLength".into(), "262144".into())));

    let mut initiator = Initiator::connect(&server);
    let names = [("InitiatorName", INITIATOR), ("TargetName", TARGET), ("MaxBurstLength", "4096")];
    assert_eq!(initiator.login_step(1, None, &names).0.u16(36), 0);
    let (answer, _) = initiator.login_step(1, Some(3), &[("MaxBurstLength", "8192")]);
    assert_eq!(answer.u16(36), 0x0200);
}

#[test]
fn long_answers_come_in_parts() {
    let server = server();
    let mut initiator = Initiator::connect(&server);
    let keys: Vec<String> = (0..400).map(|number| format!("X-org.example.{number}")).collect();
    let mut pairs = vec![("InitiatorName", INITIATOR), ("TargetName", TARGET)];
    pairs.extend(keys.iter().map(|key| (key.as_str(), "")));
    let (mut answer, mut text) = initiator.login_step(1, Some(3), &pairs);
    assert_eq!(answer.flags(), 0x44, "there is more");
    while answer.flags() & 0x40 != 0 {
        let (next, more) = initiator.login_step(1, Some(3), &[]);
        text.extend(more);
        answer = next;
    }
    assert_eq!((answer.flags(), answer.u16(36)), (0x87, 0));
    let answers = texts(&text);
    assert_eq!(answers.iter().filter(|(_, value)| value == "NotUnderstood").count(), 400);
}

#[test]
fn login_takes_only_so_long() {
    let limits = ServerLimits {
        login_time: Duration::from_millis(300),
        connections: 2,
        ..Default::default()
    };
    let server = with_limits(limits);
    let mut silent = Initiator::connect(&server);
    let mut slow = Initiator::connect(&server);
    slow.send_bytes(&[0x43, 0x87]);
    // No more connections than there may be.
    let mut third = Initiator::connect(&server);
    third.closed();
    silent.closed();
    slow.closed();
    wait_until("there is room again", || {
        let mut initiator = Initiator::connect(&server);
        initiator.send_bytes(&[0]);
        initiator.socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        initiator.socket.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    });
}

fn chap_server() -> Server {
    let secrets = format!("joe:secret-of-joe\n{TARGET}:the-target-says");
    serve(ServerOptions { chap: Some(ChapSecrets::of_test(&secrets, TARGET)), ..options() })
}

/// The answer to a challenge.
fn prove(answers: &[(String, String)], secret: &str) -> String {
    let value = |key: &str| &answers.iter().find(|(other, _)| other == key).unwrap().1;
    let algorithm = Algorithm::choose(value("CHAP_A")).unwrap();
    let id = value("CHAP_I").parse().unwrap();
    let challenge = keys::binary(value("CHAP_C"), 1024).unwrap();
    keys::to_hex(&algorithm.respond(id, &Secret::of_test(secret), &challenge))
}

/// Goes up to the challenge.
fn challenged(server: &Server, algorithms: &str) -> (Initiator, Vec<(String, String)>) {
    let mut initiator = Initiator::connect(server);
    let pairs = [("InitiatorName", INITIATOR), ("TargetName", TARGET), ("AuthMethod", "None,CHAP")];
    let (answer, text) = initiator.login_step(0, Some(1), &pairs);
    assert_eq!((answer.u16(36), answer.flags()), (0, 0), "the stage is not over");
    assert!(texts(&text).contains(&("AuthMethod".into(), "CHAP".into())));
    let (answer, text) = initiator.login_step(0, None, &[("CHAP_A", algorithms)]);
    assert_eq!(answer.u16(36), 0);
    (initiator, texts(&text))
}

#[test]
fn who_knows_the_secret_comes_in_by_either_algorithm() {
    let server = chap_server();
    for algorithms in ["5", "7,5"] {
        let (mut initiator, answers) = challenged(&server, algorithms);
        let proof = prove(&answers, "secret-of-joe");
        let question = "0x00112233445566778899aabbccddeeff";
        let pairs = [("CHAP_N", "joe"), ("CHAP_R", &proof), ("CHAP_I", "9"), ("CHAP_C", question)];
        let (answer, text) = initiator.login_step(0, Some(1), &pairs);
        assert_eq!((answer.u16(36), answer.flags()), (0, 0x81));
        // The target proves itself too.
        let answers = texts(&text);
        assert_eq!(answers[0], ("CHAP_N".to_owned(), TARGET.to_owned()));
        let secret = Secret::of_test("the-target-says");
        let algorithm = Algorithm::choose(algorithms).unwrap();
        let wanted = algorithm.respond(9, &secret, &keys::binary(question, 64).unwrap());
        assert_eq!(answers[1], ("CHAP_R".to_owned(), keys::to_hex(&wanted)));
        let (answer, _) = initiator.login_step(1, Some(3), &[]);
        assert_eq!((answer.u16(36), answer.flags()), (0, 0x87));
        assert_eq!(server.sessions()[0].user.as_deref(), Some("joe"));
        initiator.ping(b"in");
    }
}

#[test]
fn nobody_else_comes_in() {
    let server = chap_server();
    let names = [("InitiatorName", INITIATOR), ("TargetName", TARGET)];
    // Not by leaving security out, wholly or in part, nor for discovery.
    for (stage, next) in [(1, Some(3)), (1, None), (0, Some(3)), (0, Some(1))] {
        assert_eq!(status(&server, stage, next, &names), 0x0201, "{stage} {next:?}");
    }
    let discovery = [("InitiatorName", INITIATOR), ("SessionType", "Discovery")];
    assert_eq!(status(&server, 1, Some(3), &discovery), 0x0201);
    let none = [names[0], names[1], ("AuthMethod", "None")];
    assert_eq!(status(&server, 0, Some(1), &none), 0x0201);

    // Not without the secret, with an old answer, or with our own question.
    let (mut initiator, answers) = challenged(&server, "5");
    let wrong = prove(&answers, "secret-of-jim");
    let pairs = [("CHAP_N", "joe"), ("CHAP_R", wrong.as_str())];
    assert_eq!(initiator.login_step(0, Some(1), &pairs).0.u16(36), 0x0201);
    initiator.closed();
    let old = prove(&answers, "secret-of-joe");
    let (mut initiator, answers) = challenged(&server, "5");
    let pairs = [("CHAP_N", "joe"), ("CHAP_R", old.as_str())];
    assert_eq!(initiator.login_step(0, Some(1), &pairs).0.u16(36), 0x0201);
    drop(answers);
    let (mut initiator, answers) = challenged(&server, "5");
    let ours = &answers.iter().find(|(key, _)| key == "CHAP_C").unwrap().1;
    let proof = prove(&answers, "secret-of-joe");
    let pairs = [("CHAP_N", "joe"), ("CHAP_R", &proof), ("CHAP_I", "1"), ("CHAP_C", ours)];
    assert_eq!(initiator.login_step(0, Some(1), &pairs).0.u16(36), 0x0201);

    // Not with an answer before the question, nor with no algorithm that is known.
    let pairs = [names[0], names[1], ("AuthMethod", "CHAP"), ("CHAP_N", "joe"), ("CHAP_R", "0x00")];
    assert_eq!(status(&server, 0, Some(1), &pairs), 0x0201);
    let pairs = [names[0], names[1], ("AuthMethod", "CHAP"), ("CHAP_A", "6")];
    assert_eq!(status(&server, 0, None, &pairs), 0x0201);
    assert!(server.sessions().is_empty());
}

#[test]
fn discovery_tells_the_target_and_nothing_else() {
    let server = server();
    let mut initiator = Initiator::connect(&server);
    let pairs = [("InitiatorName", INITIATOR), ("SessionType", "Discovery")];
    assert_eq!(initiator.login_step(1, Some(3), &pairs).0.u16(36), 0);
    let wanted = vec![
        ("TargetName".to_owned(), TARGET.to_owned()),
        ("TargetAddress".to_owned(), format!("{},1", server.addresses()[0])),
    ];
    for (asked, told) in [("All", &wanted), (TARGET, &wanted), ("iqn.other", &vec![])] {
        let mut header = initiator.numbered(opcode::TEXT, 0x80);
        header.set_u32(20, NO_TAG);
        initiator.send(header, format!("SendTargets={asked}\0").as_bytes());
        let (answer, text) = initiator.receive().unwrap();
        assert_eq!((answer.opcode(), answer.flags()), (opcode::TEXT_RESPONSE, 0x80));
        assert_eq!(&texts(&text), told);
    }
    let header = initiator.command(&[0; 6], 0x81, 0);
    initiator.send(header, &[]);
    initiator.rejected(4);
}

#[test]
fn text_within_a_session() {
    let server = server();
    let mut initiator = Initiator::logged_in(&server, &[("MaxRecvDataSegmentLength", "512")]);
    let mut ask = |flags: u8, transfer: u32, text: &[u8]| {
        let mut header = initiator.numbered(opcode::TEXT, flags);
        header.set_u32(20, transfer);
        initiator.send(header, text);
        initiator.receive().unwrap()
    };
    let (_, text) = ask(0x80, NO_TAG, b"SendTargets=\0");
    assert_eq!(texts(&text)[0].1, TARGET);
    let (_, text) = ask(0x80, NO_TAG, b"SendTargets=All\0X-key=1\0");
    assert_eq!(text, b"SendTargets=Reject\0X-key=NotUnderstood\0");
    // In parts, there and back.
    let (answer, _) = ask(0x40, NO_TAG, b"X-a");
    let transfer = answer.u32(20);
    assert!(answer.flags() == 0 && transfer != NO_TAG);
    let many: String = (0..60).map(|number| format!("X-{number}=\0")).collect();
    let (mut answer, mut text) = ask(0x80, transfer, format!("=1\0{many}").as_bytes());
    while answer.flags() & 0x40 != 0 {
        assert_eq!(text.len() % 512, 0);
        let (next, more) = ask(0x80, answer.u32(20), b"");
        answer = next;
        text.extend(more);
    }
    assert_eq!((answer.flags(), answer.u32(20)), (0x80, NO_TAG));
    assert_eq!(texts(&text).len(), 61);
}
