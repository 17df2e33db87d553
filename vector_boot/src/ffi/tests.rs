use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::Value;

use super::guard::{enter, last_error};
use super::instance::Instance;
use super::message;
use super::{start, tiny};
use crate::gguf::Gguf;

fn why() -> String {
    #[allow(unsafe_code)]
    // SAFETY: the text ends with a NUL and lives until this thread's next failure.
    unsafe { std::ffi::CStr::from_ptr(last_error()) }.to_string_lossy().into_owned()
}

#[test]
fn a_panic_stops_at_the_boundary_and_only_its_thread_gets_the_error() {
    assert_eq!(enter(7, || -> Result<i32, String> { panic!("half\0way") }), 7);
    assert!(why().contains("halfway"), "{}", why());
    assert_eq!(std::thread::spawn(why).join().unwrap(), "");
    assert_eq!(enter(0, || Ok(1)), 1);
}

#[test]
fn the_built_in_model_is_an_acceptable_file() {
    let bytes = tiny::gguf();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!((gguf.tensors.len(), gguf.alignment), (37, 4096));
    assert_eq!(gguf.text("general.name"), Some("vector_boot tiny"));
}

fn read(bytes: &[u8]) -> message::CallContents {
    message::read(bytes, Vec::new())
}

#[test]
fn one_message_is_read_and_everything_else_is_refused_as_on_the_port() {
    let code = |bytes: &[u8]| read(bytes).message.map(|message| message.map_err(|error| error.code));
    assert!(code(b"{\"a\":1}\n").unwrap().is_ok());
    let blob = b"{\"blob\":{\"bytes\":3,\"crc32c\":\"00000000\"}}\nabc";
    assert!(code(blob).unwrap().is_ok());
    assert_eq!(code(&[&blob[..], b"d"].concat()), Some(Err(-32600)));
    assert_eq!(code(b"{}\n{}\n"), Some(Err(-32600)));
    for no_line in [&b""[..], b"{}", b"\n", b"{]\n", &[b' '; 70_000]] {
        assert_eq!(code(no_line), Some(Err(-32700)), "{no_line:?}");
    }
    // An incomplete blob has stalled; one that is too large is skipped, as far as it is here.
    let stalled = read(&blob[..blob.len() - 1]).message.unwrap().unwrap();
    assert_eq!(stalled.blob, crate::protocol::Blob::Stalled);
    let large = read(b"{\"blob\":{\"bytes\":9999999,\"crc32c\":\"00000000\"}}\nabc").message.unwrap().unwrap();
    assert_eq!(large.blob, crate::protocol::Blob::TooLarge);
    let (greeted, resynced) = (read(b"\xFF"), read(b"half\xFF{}\n"));
    assert!(greeted.greet && greeted.message.is_none());
    assert!(resynced.greet && resynced.message.unwrap().is_ok());
}

#[test]
fn methods_that_need_a_connection_or_a_process_are_refused() {
    let instance = start::alone(start::open(None).unwrap()).unwrap();
    for method in ["subscribe", "shutdown", "fault", "frob"] {
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\"}}\n");
        let reply: Value = serde_json::from_slice(&instance.handle(line.as_bytes())).unwrap();
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&1.into(), &(-32601).into()));
    }
    let reply: Value = serde_json::from_slice(&instance.handle(b"{\"jsonrpc\":\"2.0\",\"method\":\"bye\"}\n")).unwrap();
    assert_eq!((&reply["id"], &reply["error"]["code"]), (&Value::Null, &(-32601).into()));
}

#[test]
fn a_second_machine_with_the_same_files_continues_where_the_first_ended() {
    use crate::sys::memory::memory_file;
    use std::os::fd::AsRawFd;

    let files = [c"weights", c"journal", c"words"].map(|name| memory_file(name).unwrap());
    let fds = files.each_ref().map(AsRawFd::as_raw_fd);
    let open = || start::shared(start::open(None).unwrap(), start::Files::duplicate(fds[0], fds[1], fds[2]).unwrap());
    let ask =
        |machine: &Instance, line: &str| -> Value { serde_json::from_slice(&machine.handle(line.as_bytes())).unwrap() };
    let first = open().unwrap();
    let mutate =
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"mutate\",\"params\":{\"id\":\"00000000000000000000000000000001\",\
        \"base_generation\":0,\"confidence\":0.9,\"edits\":[{\"kind\":\"seeded\",\"tensors\":\"blk.*.weight\",\
        \"seed\":\"0000000000000001\",\"form\":\"normal\",\"density\":0.5,\"scale\":0.5}]}}\n";
    assert_eq!(ask(&first, mutate)["result"]["generation"], 1);
    let digest = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"digest\"}\n";
    let before = ask(&first, digest)["result"]["model"].clone();
    let counts = first.counts().unwrap();
    drop(first);
    let second = open().unwrap();
    assert_eq!(ask(&second, digest)["result"]["model"], before);
    let continued = second.counts().unwrap();
    assert_eq!(
        (continued.mutations_accepted, continued.changed_bytes),
        (counts.mutations_accepted, counts.changed_bytes)
    );
    assert!(counts.mutations_accepted == 1 && counts.changed_bytes > 1000);
    assert_eq!(ask(&second, mutate)["result"]["replayed"], true);
    assert_eq!(
        ask(&second, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"stats\"}\n")["result"]["worker"]["restarts"],
        1
    );
}

/// One machine for all cases: loading takes longer than answering.
static MACHINE: LazyLock<Instance> = LazyLock::new(|| start::alone(start::open(None).unwrap()).unwrap());

/// Lines that are almost messages, cut and joined.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let line = r#"{"jsonrpc":"2.0","id":1,"method":"read","params":{"tensor":"hw.mmio","bytes":9},"blob":{"bytes":3,"crc32c":"00000000"}}"#;
    let piece = prop_oneof![
        (0..line.len(), 0..line.len()).prop_map(move |(from, to)| line.as_bytes()[from.min(to)..to].to_vec()),
        Just(line.as_bytes().to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\xFF".to_vec()),
        prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_input_is_answered_with_complete_messages(bytes in bytes()) {
        let answer = MACHINE.handle(&bytes);
        let greets = answer.starts_with(b"{\"vector_boot\"");
        let end = answer.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let rest = if greets { &answer[end.unwrap()..] } else { &answer[..] };
        prop_assert!(greets || !rest.is_empty());
        if !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
            let reply: Value = serde_json::from_slice(&rest[..end]).unwrap();
            let blob = reply["blob"]["bytes"].as_u64().unwrap_or(0) as usize;
            prop_assert_eq!(rest.len(), end + 1 + blob);
            prop_assert!(reply["result"].is_object() != reply["error"].is_object());
        }
    }
}
