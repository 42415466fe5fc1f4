//! Challenges and answers, right, wrong and hostile.

use super::*;

const TARGET: &str = "iqn.2026-01.example:disk";
const SECRETS: &str = "joe:secret-of-joe\niqn.2026-01.example:disk:the-target-says";

fn secrets() -> ChapSecrets {
    ChapSecrets::of_test(SECRETS, TARGET)
}

fn challenge(list: &str) -> Challenge {
    Challenge::new(list).unwrap().unwrap()
}

/// Computed by another implementation (Python's hashlib).
#[test]
fn responses_are_those_of_others() {
    let secret = Secret::of_test("secret-of-12b");
    let question: Vec<u8> = (0..16).collect();
    for (algorithm, wanted) in [
        (Algorithm::Md5, "0xeeed840934e04c245481189affa92a32"),
        (Algorithm::Sha256, "0xbd2fe6814e0f7290093c8964e04a34337d3a76dfe3b48ca62dc4300bac63af3a"),
    ] {
        assert_eq!(keys::to_hex(&algorithm.respond(0x27, &secret, &question)), wanted);
    }
}

/// The initiator's first known algorithm is taken.
#[test]
fn algorithms_are_chosen() {
    assert_eq!(Algorithm::choose("5"), Some(Algorithm::Md5));
    assert_eq!(Algorithm::choose("8,7,5"), Some(Algorithm::Sha256));
    assert_eq!(Algorithm::choose("6,55,"), None);
    assert_eq!(Challenge::new("6").unwrap().unwrap_err(), ChapError::Algorithm);
}

/// What an initiator with this secret answers.
fn answer(challenge: &Challenge, secret: &str) -> String {
    let secret = Secret::of_test(secret);
    keys::to_hex(&challenge.algorithm.respond(challenge.id, &secret, &challenge.bytes))
}

#[test]
fn who_knows_the_secret_is_let_in() {
    for list in ["5", "7"] {
        let challenge = challenge(list);
        let mut out = Vec::new();
        let right = answer(&challenge, "secret-of-joe");
        let check =
            |pairs: &[(&str, &str)], out: &mut Vec<u8>| challenge.check(pairs, &secrets(), out);
        assert_eq!(check(&[("CHAP_N", "joe"), ("CHAP_R", &right)], &mut out), Ok("joe".to_owned()));
        assert!(out.is_empty());
        let wrong = answer(&challenge, "secret-of-jim");
        for (pairs, error) in [
            (vec![("CHAP_N", "joe"), ("CHAP_R", wrong.as_str())], ChapError::Wrong),
            (vec![("CHAP_N", "jim"), ("CHAP_R", &right)], ChapError::Wrong),
            // The target's own secret lets nobody in.
            (vec![("CHAP_N", TARGET), ("CHAP_R", &right)], ChapError::Wrong),
            (vec![("CHAP_N", "joe"), ("CHAP_R", "0x")], ChapError::Value("CHAP_R")),
            (vec![("CHAP_N", "joe"), ("CHAP_R", "0x00")], ChapError::Wrong),
            (vec![("CHAP_N", "joe")], ChapError::Missing("CHAP_R")),
            (vec![("CHAP_R", &right)], ChapError::Missing("CHAP_N")),
        ] {
            assert_eq!(check(&pairs, &mut out), Err(error), "{pairs:?}");
        }
    }
}

/// An unknown name does not get in with the secret that stands for nobody.
#[test]
fn nobody_is_nobody() {
    let challenge = challenge("5");
    let zeroes = "\0".repeat(12);
    let response = answer(&challenge, &zeroes);
    let pairs = [("CHAP_N", "nobody"), ("CHAP_R", response.as_str())];
    assert_eq!(challenge.check(&pairs, &secrets(), &mut Vec::new()), Err(ChapError::Wrong));
}

#[test]
fn the_target_proves_itself() {
    let challenge = challenge("5");
    let right = answer(&challenge, "secret-of-joe");
    let joe = [("CHAP_N", "joe"), ("CHAP_R", right.as_str())];
    let ask = |id: &str, question: &str, secrets: &ChapSecrets| {
        let mut out = Vec::new();
        let pairs = [&joe[..], &[("CHAP_I", id), ("CHAP_C", question)]].concat();
        challenge.check(&pairs, secrets, &mut out).map(|_| out)
    };
    let out = ask("200", "0x0102030405060708", &secrets()).unwrap();
    let secret = Secret::of_test("the-target-says");
    let proof = keys::to_hex(&Algorithm::Md5.respond(200, &secret, &[1, 2, 3, 4, 5, 6, 7, 8]));
    let wanted = format!("CHAP_N={TARGET}\0CHAP_R={proof}\0");
    assert_eq!(String::from_utf8(out).unwrap(), wanted);

    let ours = keys::to_hex(&challenge.bytes);
    assert_eq!(ask("1", &ours, &secrets()), Err(ChapError::Reflected));
    assert_eq!(ask("256", "0x01", &secrets()), Err(ChapError::Value("CHAP_I")));
    assert_eq!(ask("1", "zz", &secrets()), Err(ChapError::Value("CHAP_C")));
    let one_way = ChapSecrets::of_test("joe:secret-of-joe", TARGET);
    assert_eq!(ask("1", "0x01", &one_way), Err(ChapError::NoSecret));
}

#[test]
fn challenges_differ() {
    assert_ne!(challenge("5").bytes, challenge("5").bytes);
}
