use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Feeds the stream in pieces of the given lengths (the last one repeats), all at time 0.
fn read(stream: &[u8], pieces: &[usize]) -> Vec<Incoming> {
    read_with(stream, pieces, false)
}

/// The same; with `in_place` the bytes of blobs are appended where they belong.
fn read_with(stream: &[u8], pieces: &[usize], in_place: bool) -> Vec<Incoming> {
    let mut framer = Framer::default();
    let mut incoming = Vec::new();
    let mut lengths = pieces.iter().copied().chain(std::iter::repeat(pieces.last().copied().unwrap_or(1).max(1)));
    let mut rest = stream;
    while !rest.is_empty() {
        let count = lengths.next().unwrap().clamp(1, rest.len());
        let append = |blob: &mut Vec<u8>, missing: usize| {
            blob.extend_from_slice(&rest[..count.min(missing)]);
            count.min(missing)
        };
        let taken = if in_place { framer.take_blob(0, append) } else { None };
        let (mut piece, tail) = rest.split_at(taken.unwrap_or(count));
        piece = if taken.is_some() { &[] } else { piece };
        rest = tail;
        while let Some(item) = framer.next(&mut piece, 0) {
            incoming.push(item);
        }
    }
    incoming
}

fn request(id: u32, blob: &[u8]) -> Vec<u8> {
    let mut line = json!({"jsonrpc": "2.0", "id": id, "method": "m", "params": {}});
    if !blob.is_empty() {
        line["blob"] = json!({"bytes": blob.len(), "crc32c": format!("{:08x}", crc32c::crc32c(blob))});
    }
    [line.to_string().as_bytes(), b"\n", blob].concat()
}

fn code(incoming: &Incoming) -> i64 {
    match incoming {
        Incoming::Refused(error) => error.code,
        other => panic!("not refused: {other:?}"),
    }
}

fn blob(incoming: &Incoming) -> &Blob {
    match incoming {
        Incoming::Message(message) => &message.blob,
        other => panic!("no message: {other:?}"),
    }
}

#[test]
fn crc32c_is_castagnoli() {
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn garbage_and_batches_are_refused_and_the_next_line_is_read() {
    let stream = [&b"nonsense\n[1]\n7\n\xc3\x28\n\n"[..], &request(1, b"")].concat();
    let incoming = read(&stream, &[1000]);
    assert_eq!(incoming[..5].iter().map(code).collect::<Vec<_>>(), [-32700, -32600, -32600, -32700, -32700]);
    assert_eq!(blob(&incoming[5]), &Blob::None);
}

#[test]
fn a_line_may_have_65536_bytes_and_no_more() {
    let pad = |len: usize| [&b"{\"a\": \""[..], &vec![b'x'; len - 10], b"\"}\n"].concat();
    let fits = pad(LINE_LIMIT);
    assert_eq!(fits.len(), LINE_LIMIT);
    assert!(matches!(read(&fits, &[4096])[..], [Incoming::Message(_)]));
    let stream = [&pad(LINE_LIMIT + 1)[..], &request(1, b"")].concat();
    for piece in [1, 1000, 1 << 20] {
        let incoming = read(&stream, &[piece]);
        assert_eq!(incoming.len(), 2);
        assert_eq!(code(&incoming[0]), -32700);
        assert_eq!(blob(&incoming[1]), &Blob::None);
    }
}

#[test]
fn a_byte_ff_drops_the_line_but_is_data_inside_a_blob() {
    let stream = [&b"{\"half\": \xff"[..], &request(1, &[0xff; 5])].concat();
    let incoming = read(&stream, &[3]);
    assert_eq!(incoming[0], Incoming::Resync);
    assert_eq!(blob(&incoming[1]), &Blob::Bytes(vec![0xff; 5].into()));
}

#[test]
fn a_wrong_checksum_is_told_and_the_blob_consumed() {
    let mut stream = request(1, b"hello");
    *stream.last_mut().unwrap() ^= 1;
    stream.extend(request(2, b""));
    let incoming = read(&stream, &[7]);
    assert_eq!((blob(&incoming[0]), blob(&incoming[1])), (&Blob::ChecksumWrong, &Blob::None));
}

#[test]
fn malformed_announcements_are_no_requests_but_their_bytes_are_passed_over() {
    for (announced, follows) in [
        (json!(1), 0),
        (json!({"bytes": 0, "crc32c": "00000000"}), 0),
        (json!({"bytes": -1, "crc32c": "00000000"}), 0),
        (json!({"upload": "abc"}), 0),
        (json!({"bytes": 1}), 1),
        (json!({"bytes": 6, "crc32c": "DEADBEEF"}), 6),
        (json!({"bytes": 6, "crc32c": "00000000", "more": 1}), 6),
    ] {
        let line = json!({"jsonrpc": "2.0", "id": 7, "method": "m", "blob": announced}).to_string() + "\n";
        let stream = [line.as_bytes(), &b"{}\n\xff{}"[..follows], &request(8, b"")].concat();
        let mut incoming = read(&stream, &[5]);
        assert_eq!(incoming.len(), 2, "{announced}");
        let Incoming::Message(message) = incoming.remove(0) else { panic!("{announced}") };
        let refused = Envelope::open(message).expect_err("refused");
        assert_eq!((refused.id, refused.error.code), (json!(7), -32600), "{announced}");
    }
    for bytes in [json!(BLOB_LIMIT + 1), json!(18446744073709551616.0), json!(1e300)] {
        let line = json!({"jsonrpc": "2.0", "id": 1, "method": "m", "blob": {"bytes": bytes}}).to_string() + "\n";
        assert_eq!(blob(&read(line.as_bytes(), &[100])[0]), &Blob::TooLarge, "{bytes}");
    }
}

#[test]
fn bytes_of_a_blob_never_become_lines_however_late_they_are_read() {
    let text = b"{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"shutdown\"}\n";
    let stream = request(1, text);
    let head = stream.len() - text.len();
    let mut framer = Framer::default();
    assert_eq!(framer.next(&mut &stream[..head], 0), None);
    // This side did not read for three seconds; the bytes were there all the time.
    assert_eq!(blob(&framer.next(&mut &stream[head..], 3000).unwrap()), &Blob::Bytes(text.to_vec().into()));
    assert_eq!(framer.next(&mut &stream[..head], 4000), None);
    framer.resume(9000);
    assert_eq!(framer.tick(10_999), None);
    assert_eq!(blob(&framer.tick(11_000).unwrap()), &Blob::Stalled);
}

#[test]
fn a_stalled_blob_is_given_up_after_two_seconds() {
    let stream = request(1, b"hello");
    let mut framer = Framer::default();
    assert_eq!(framer.next(&mut &stream[..stream.len() - 1], 100), None);
    assert_eq!(framer.deadline_ms(), Some(2100));
    assert_eq!(framer.tick(2099), None);
    assert_eq!(blob(&framer.tick(2100).unwrap()), &Blob::Stalled);
    assert_eq!(blob(&framer.next(&mut &request(2, b"")[..], 2101).unwrap()), &Blob::None);
}

#[test]
fn bytes_put_in_place_count_as_life_signs() {
    let stream = request(1, &[7; 5]);
    let (line, bytes) = stream.split_at(stream.len() - 5);
    let mut framer = Framer::default();
    assert_eq!(framer.take_blob(0, |_, _| ()), None);
    assert_eq!(framer.next(&mut &line[..], 1000), None);
    assert_eq!(framer.take_blob(2000, |_, missing| missing), Some(5));
    assert_eq!(framer.deadline_ms(), Some(3000)); // nothing came
    framer.take_blob(2000, |blob, _| blob.extend_from_slice(&bytes[..4]));
    assert_eq!(framer.deadline_ms(), Some(4000));
    assert_eq!(framer.next(&mut &[][..], 2000), None);
    framer.take_blob(2000, |blob, _| blob.extend_from_slice(&[7; 9])); // more than was asked for
    assert_eq!(framer.take_blob(2000, |_, _| ()), None);
    assert_eq!(blob(&framer.next(&mut &[][..], 5000).unwrap()), &Blob::Bytes(vec![7; 5].into()));
}

#[test]
fn an_oversized_blob_is_refused_and_all_is_discarded_until_silence() {
    let line =
        json!({"jsonrpc": "2.0", "id": 1, "method": "m", "blob": {"bytes": BLOB_LIMIT + 1, "crc32c": "00000000"}});
    let line = line.to_string() + "\n";
    let mut framer = Framer::default();
    assert_eq!(blob(&framer.next(&mut line.as_bytes(), 0).unwrap()), &Blob::TooLarge);
    assert_eq!(framer.next(&mut &request(2, b"")[..], 200), None);
    assert_eq!(framer.next(&mut &request(3, b"")[..], 449), None);
    assert_eq!(framer.deadline_ms(), Some(699));
    assert_eq!(blob(&framer.next(&mut &request(4, b"")[..], 700).unwrap()), &Blob::None);
}

#[test]
fn envelopes_are_judged() {
    let open = |value: serde_json::Value| {
        let serde_json::Value::Object(members) = value else { unreachable!() };
        Envelope::open(Message { members, blob: Blob::None })
    };
    let good = json!({"jsonrpc": "2.0", "id": "a", "method": "stats"});
    assert!(matches!(open(good), Ok(Envelope::Request(request)) if request.method == Method::Stats));
    assert_eq!(open(json!({"jsonrpc": "2.0", "method": "bye"})), Ok(Envelope::Bye));
    for (bad, id, code) in [
        (json!({"jsonrpc": "2.0", "method": "stats"}), json!(null), -32600),
        (json!({"jsonrpc": "2.0", "id": 1.5, "method": "stats"}), json!(null), -32600),
        (json!({"jsonrpc": "2.0", "id": null, "method": "stats"}), json!(null), -32600),
        (json!({"jsonrpc": "1.0", "id": 3, "method": "stats"}), json!(3), -32600),
        (json!({"jsonrpc": "2.0", "id": 3, "method": 4}), json!(3), -32600),
        (json!({"jsonrpc": "2.0", "id": 3, "method": "stats", "parms": {}}), json!(3), -32600),
        (json!({"jsonrpc": "2.0", "id": 3, "method": "stats", "params": [1]}), json!(3), -32602),
        (json!({"jsonrpc": "2.0", "id": 3, "method": "no such", "params": [1]}), json!(3), -32601),
        (json!({"jsonrpc": "2.0", "id": "x".repeat(257), "method": "stats"}), json!(null), -32600),
    ] {
        let refused = open(bad.clone()).expect_err(&bad.to_string());
        assert_eq!((refused.id, refused.error.code), (id, code), "{bad}");
    }
}

#[test]
fn an_answer_too_long_for_a_line_becomes_a_refusal() {
    let reply = Reply::from(json!("x".repeat(LINE_LIMIT)));
    let bytes = reply.to_bytes(&json!(1));
    assert!(bytes.len() < LINE_LIMIT && String::from_utf8(bytes).unwrap().contains("-32602"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn how_the_stream_is_cut_changes_nothing(
        blobs in vec(vec(any::<u8>(), 0..40), 1..6),
        noise in prop_oneof![Just(vec![]), Just(vec![0xff]), Just(b"x\n".to_vec())],
        pieces in vec(1usize..60, 1..20),
    ) {
        let mut stream = Vec::new();
        for (id, blob) in (0..).zip(&blobs) {
            stream.extend_from_slice(&noise);
            stream.extend(request(id, blob));
        }
        let whole = read(&stream, &[usize::MAX]);
        prop_assert_eq!(&read(&stream, &pieces), &whole);
        prop_assert_eq!(&read_with(&stream, &pieces, true), &whole);
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..600), pieces in vec(1usize..60, 1..9)) {
        prop_assert_eq!(read(&bytes, &pieces), read_with(&bytes, &pieces, true));
        for item in read(&bytes, &pieces) {
            if let Incoming::Message(message) = item {
                let _ = Envelope::open(message);
            }
        }
    }
}

#[test]
fn another_framer_goes_on_at_any_byte() {
    use packing::Packed;

    let long = vec![b'x'; LINE_LIMIT + 5];
    let stream = [&request(1, b"some bytes")[..], b"\xff", &long, b"\n", &request(2, &[0xff; 3])].concat();
    let whole = read(&stream, &[stream.len()]);
    for at in (0..200).chain(stream.len() - 200..stream.len()) {
        let (mut before, mut after) = stream.split_at(at);
        let (mut framer, mut incoming) = (Framer::default(), Vec::new());
        incoming.extend(std::iter::from_fn(|| framer.next(&mut before, 0)));
        let mut bytes = Vec::new();
        framer.pack(&mut bytes);
        let mut next = Framer::unpack(&mut &bytes[..]).unwrap();
        incoming.extend(std::iter::from_fn(|| next.next(&mut after, 0)));
        assert_eq!(incoming, whole, "at {at}");
        (0..bytes.len()).for_each(|len| assert!(Framer::unpack(&mut &bytes[..len]).is_none()));
    }
}
