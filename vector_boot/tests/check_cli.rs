//! `vector_boot check` as a user runs it. Needs the executable: `cargo test --features standalone`.
#![cfg(feature = "standalone")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_string()
    }
}

fn check(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_vector_boot")).arg("check").args(args).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn empty_gguf() -> Vec<u8> {
    [&b"GGUF\x03\0\0\0"[..], &[0; 16], &[0; 8]].concat()
}

fn rts() -> Vec<u8> {
    let gguf = empty_gguf();
    let mut file = b"RTS\x01\0\0\0\x01".to_vec();
    for field in [512, 3584, 4096, gguf.len() as u64] {
        file.extend(field.to_be_bytes());
    }
    file.resize(512, 0);
    file.extend(b"\x7fELF\x02\x01\x01");
    file.resize(4096, 0);
    file.extend(gguf);
    file
}

#[test]
fn sound_files_get_a_summary() {
    let folder = Folder::new("sound");
    let (code, out, err) = check(&[&folder.file("a.gguf", &empty_gguf())]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("GGUF 3") && out.contains("0 tensors"), "{out}");
    let (code, out, err) = check(&[&folder.file("a.rts", &rts())]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("RTS 1") && out.contains("unsigned") && out.contains("bootable"), "{out}");
}

#[test]
fn json_goes_to_stdout_in_both_cases() {
    let folder = Folder::new("json");
    let (code, out, _) = check(&["--json", &folder.file("a.rts", &rts())]);
    assert_eq!(code, 0);
    assert!(out.starts_with("{\"ok\": true,") && out.contains("\"kind\": \"rts\""), "{out}");
    let bad = folder.file("b\n.gguf", b"GGUF\x09\0\0\0");
    let (code, out, err) = check(&["--json", &bad]);
    assert_eq!(code, 1);
    assert!(out.contains("\"rule\": \"R2\", \"field\": \"version\", \"offset\": 4"), "{out}");
    assert_eq!(err.lines().count(), 1, "a line end in a file's name must not break the line: {err}");
}

#[test]
fn a_refusal_is_one_line_of_the_fixed_form() {
    let folder = Folder::new("refused");
    let path = folder.file("a.gguf", b"GGUF\x09\0\0\0");
    let (code, out, err) = check(&[&path]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(err, format!("{path}: R2: version: offset 4: is 9, expected version 2 or 3, little-endian\n"));
    let mut image = rts();
    let last = image.len() - 1;
    image[last - 20] = 1;
    let (code, _, err) = check(&[&folder.file("a.rts", &image)]);
    assert_eq!(code, 1);
    assert!(err.contains(": RTS: tensors: offset "), "{err}");
}

#[test]
fn unreadable_files_are_named() {
    let folder = Folder::new("unreadable");
    for path in [folder.0.to_str().unwrap(), "/nonexistent/file", "/dev/null"] {
        let (code, out, err) = check(&[path]);
        assert_eq!((code, out.as_str(), err.lines().count()), (1, "", 1));
        assert!(err.starts_with(&format!("{path}: ")), "{err}");
    }
}

#[test]
fn a_huge_file_of_another_kind_is_refused_by_its_magic() {
    let folder = Folder::new("huge");
    for (name, magic, rule) in [("a.gguf", &b"no model"[..], "R1: magic"), ("a.rts", b"no image", "RTS: magic")] {
        let path = folder.file(name, magic);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(4 << 40).unwrap(); // sparse; reading it would take an hour
        let (code, out, err) = check(&[&path]);
        assert_eq!((code, out.as_str(), err.lines().count()), (1, "", 1));
        assert!(err.starts_with(&format!("{path}: {rule}")), "{err}");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn wrong_usage_exits_with_two() {
    for args in [&[][..], &["--frob", "x"], &["a", "b"], &["--key"]] {
        let (code, _, err) = check(args);
        assert_eq!(code, 2);
        assert!(err.starts_with("usage: "), "{err}");
    }
}

#[test]
fn a_key_for_an_unsigned_image_is_refused() {
    let folder = Folder::new("key");
    let key = folder.file("key", "ab".repeat(32).as_bytes());
    let (code, _, err) = check(&["--key", &key, &folder.file("a.rts", &rts())]);
    assert_eq!(code, 1);
    assert!(err.contains("RTS: key_id: offset 104: is all zero (unsigned)"), "{err}");
    let (code, _, err) = check(&["--key", &folder.file("short", b"abc"), &folder.file("b.rts", &rts())]);
    assert_eq!(code, 1);
    assert!(err.contains("public key"), "{err}");
}
