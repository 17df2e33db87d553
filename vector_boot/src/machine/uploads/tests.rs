use super::*;

/// Numbers of two connections.
const ONE: u64 = 1;
const TWO: u64 = 2;

impl Uploads {
    fn put(
        &mut self,
        connection: u64,
        id: [u8; 16],
        offset: usize,
        total: usize,
        piece: &[u8],
    ) -> Result<usize, RequestError> {
        self.add(connection, id, offset, total, &piece.to_vec().into())
    }
}

#[test]
fn pieces_come_in_order_and_may_be_repeated() {
    let mut uploads = Uploads::default();
    assert_eq!(uploads.put(ONE, [1; 16], 0, 5, b"abc").unwrap(), 3);
    assert_eq!(uploads.put(ONE, [1; 16], 0, 5, b"abc").unwrap(), 3);
    assert_eq!(uploads.put(ONE, [1; 16], 3, 5, b"def").unwrap_err().code, -32602);
    for (offset, total, piece) in [(0, 5, &b"abd"[..]), (4, 5, b"e"), (3, 6, b"de")] {
        let error = uploads.put(ONE, [1; 16], offset, total, piece).unwrap_err();
        assert_eq!((error.code, error.data), (-32602, Some(json!({"received": 3}))));
    }
    assert!(uploads.take(ONE, &[1; 16]).is_none());
    assert_eq!(uploads.put(ONE, [1; 16], 3, 5, b"de").unwrap(), 5);
    let upload = uploads.take(ONE, &[1; 16]).unwrap();
    assert_eq!((upload.bytes().unwrap(), upload.crc()), (&b"abcde"[..], crc32c::crc32c(b"abcde")));
    assert_eq!(uploads.put(ONE, [1; 16], 3, 5, b"de").unwrap_err().code, 1012);
}

#[test]
fn four_are_open_at_most_for_each_connection_and_a_client_that_left_is_forgotten() {
    let mut uploads = Uploads::default();
    uploads.note_connection(ONE);
    for number in 0..4 {
        uploads.put(ONE, [number; 16], 0, 1, b"x").unwrap();
    }
    assert_eq!(uploads.put(ONE, [9; 16], 0, 1, b"x").unwrap_err().code, code::BUSY);
    uploads.put(TWO, [9; 16], 0, 1, b"x").unwrap();
    let now = monotonic_us();
    uploads.expire(now + 2 * IDLE_US);
    assert!(uploads.take(ONE, &[0; 16]).is_some());
    uploads.note_end(ONE, now);
    uploads.expire(now + IDLE_US);
    assert!(uploads.take(ONE, &[1; 16]).is_some());
    uploads.expire(now + IDLE_US + 1);
    assert!(uploads.take(ONE, &[2; 16]).is_none());
    assert!(uploads.take(TWO, &[9; 16]).is_some());
}

#[test]
fn an_upload_is_its_connections_own_until_that_ends() {
    let mut uploads = Uploads::default();
    uploads.note_connection(ONE);
    uploads.note_connection(TWO);
    uploads.put(ONE, [1; 16], 0, 4, b"ab").unwrap();
    assert_eq!(uploads.put(TWO, [1; 16], 2, 4, b"cd").unwrap_err().code, code::UNUSABLE_BLOB);
    assert_eq!(uploads.put(TWO, [1; 16], 0, 1, b"x").unwrap(), 1); // another one with the same id
    assert_eq!(uploads.put(ONE, [1; 16], 2, 4, b"cd").unwrap(), 4);
    assert_eq!(uploads.take(TWO, &[1; 16]).unwrap().bytes().unwrap(), b"x");
    assert!(uploads.take(TWO, &[1; 16]).is_none());
    uploads.note_end(ONE, monotonic_us());
    let upload = uploads.take(TWO, &[1; 16]).unwrap();
    assert_eq!(upload.bytes().unwrap(), b"abcd");
    uploads.note_end(TWO, monotonic_us());
    uploads.put_back(upload); // refused while the connection ended
    uploads.expire(monotonic_us() + 2 * IDLE_US);
    assert!(uploads.take(TWO, &[1; 16]).is_none());
}

#[test]
fn those_left_behind_are_bounded() {
    let mut uploads = Uploads::default();
    for connection in 0..100 {
        uploads.note_connection(connection);
        for number in 0..4 {
            uploads.put(connection, [number; 16], 0, 1, b"x").unwrap();
        }
        uploads.note_end(connection, connection);
    }
    assert!(uploads.open.len() <= LEFT_LIMIT);
    assert!(uploads.take(1000, &[3; 16]).is_some());
}

#[test]
fn another_process_goes_on_with_them() {
    let mut old = Uploads::default();
    old.note_connection(ONE);
    old.put(ONE, [1; 16], 0, 4, b"ab").unwrap();
    old.put(TWO, [2; 16], 0, 1, b"x").unwrap();
    old.note_end(TWO, 7);
    let mut bytes = Vec::new();
    old.pack(&mut bytes);
    let files = || old.files().map(|file| file.try_clone_to_owned().unwrap()).collect::<Vec<_>>().into_iter();
    let mut new = Uploads::default();
    let mut copies = files();
    new.restore(&mut &bytes[..], &mut || copies.next()).unwrap();
    assert_eq!(new.put(ONE, [1; 16], 2, 4, b"cd").unwrap(), 4);
    let upload = new.take(ONE, &[1; 16]).unwrap();
    assert_eq!((upload.bytes().unwrap(), upload.crc()), (&b"abcd"[..], crc32c::crc32c(b"abcd")));
    assert!(new.take(ONE, &[2; 16]).is_some()); // its own connection had ended
    for len in 0..bytes.len() {
        let mut copies = files();
        assert!(new.restore(&mut &bytes[..len], &mut || copies.next()).is_none());
    }
    let mut copies = files().rev(); // of other lengths than those that were packed
    assert!(new.restore(&mut &bytes[..], &mut || copies.next()).is_none());
}

/// The address of a complete upload, which is used up.
fn use_up(uploads: &mut Uploads, bytes: &[u8], limit: usize) -> *const u8 {
    uploads.put(ONE, [1; 16], 0, bytes.len(), bytes).unwrap();
    let upload = uploads.take(ONE, &[1; 16]).unwrap();
    let found = upload.bytes().unwrap();
    assert_eq!((found, upload.crc()), (bytes, crc32c::crc32c(bytes)));
    let address = found.as_ptr();
    uploads.recycle(upload, limit);
    address
}

#[test]
fn memory_is_used_again_and_shows_nothing_of_the_upload_before() {
    let mut uploads = Uploads::default();
    let limit = 1 << 20;
    let first = use_up(&mut uploads, b"abcdef", limit);
    assert_eq!(use_up(&mut uploads, b"ghijkl", limit), first);
    assert_eq!(use_up(&mut uploads, b"mnop", limit), first);
    uploads.put(ONE, [2; 16], 0, 3, b"qr").unwrap();
    assert!(uploads.take(ONE, &[2; 16]).is_none() && uploads.bytes(ONE, &[2; 16]).is_none());
    assert_eq!(uploads.put(ONE, [2; 16], 2, 3, b"s").unwrap(), 3);

    // Its file is longer than the upload: another process goes on with it, and has the right part.
    let mut bytes = Vec::new();
    uploads.pack(&mut bytes);
    let mut files = uploads.files().map(|file| file.try_clone_to_owned().unwrap()).collect::<Vec<_>>().into_iter();
    let mut new = Uploads::default();
    new.restore(&mut &bytes[..], &mut || files.next()).unwrap();
    assert_eq!(new.take(ONE, &[2; 16]).unwrap().bytes().unwrap(), b"qrs");
}

#[test]
fn memory_is_kept_within_bounds_and_for_a_while() {
    let mut uploads = Uploads::default();
    use_up(&mut uploads, &[1; 4096], 4095);
    assert!(uploads.spare.is_empty());
    use_up(&mut uploads, &[1; 4096], 4096);
    use_up(&mut uploads, &[1; 2047], 4096); // too short for memory of that size
    assert!(uploads.spare.take(4096).unwrap().bytes().iter().all(|byte| *byte == 0));
    use_up(&mut uploads, &[1; 9], 4096);
    let now = monotonic_us();
    uploads.expire(now);
    assert!(!uploads.spare.is_empty());
    uploads.expire(now + 11_000_000);
    assert!(uploads.spare.is_empty());
    use_up(&mut uploads, &[1; 9], 4096);
    uploads.drop_spare();
    assert!(uploads.spare.is_empty());
}
