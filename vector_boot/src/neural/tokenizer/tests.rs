use proptest::prelude::*;

use super::*;
use crate::gguf::tests::builder::{string, Entry, File};

const PIECES: [&str; 23] = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "▁un",
    "aff",
    "able",
    "▁the",
    "▁a",
    "▁cafe",
    "▁[",
    "▁]",
    "▁cls",
    "▁.",
    "a",
    "▁中",
    "▁σοφοσ",
    "▁ᄒ",
    "ᅡ",
    "ᆫ",
    "▁#",
    "b",
];
const UNKNOWN: u32 = 1;

/// A file with these pieces, and the ids of the special ones where PIECES has them.
fn file(pieces: &[&str]) -> File {
    let strings: Vec<u8> = pieces.iter().flat_map(|piece| string(piece.as_bytes())).collect();
    let types: Vec<u8> = (0..pieces.len()).flat_map(|id| if id < 5 { 3i32 } else { 1 }.to_le_bytes()).collect();
    let id = |role: &str, id| Entry::u32(&format!("tokenizer.ggml.{role}_token_id"), id);
    let entries = vec![
        Entry::array("tokenizer.ggml.tokens", 8, pieces.len() as u64, &strings),
        Entry::array("tokenizer.ggml.token_type", 5, pieces.len() as u64, &types),
        id("padding", 0),
        id("unknown", UNKNOWN),
        id("bos", 2),
        id("seperator", 3),
        id("mask", 4),
    ];
    File { entries, ..File::default() }
}

fn read(file: &File) -> Result<Tokenizer, NetworkError> {
    Tokenizer::from_gguf(&Gguf::parse(&file.bytes()).expect("a sound container"))
}

fn tokenizer() -> Tokenizer {
    read(&file(&PIECES)).unwrap()
}

/// The pieces of a text, without [CLS] and [SEP].
fn pieces(text: &str) -> Vec<&'static str> {
    let ids = tokenizer().encode(text, 512).ids;
    assert_eq!((ids[0], ids[ids.len() - 1]), (2, 3));
    ids[1..ids.len() - 1].iter().map(|id| PIECES[*id as usize]).collect()
}

#[test]
fn words_are_their_longest_pieces() {
    assert_eq!(pieces("unaffable"), ["▁un", "aff", "able"]);
    assert_eq!(pieces("The the. a"), ["▁the", "▁the", "▁.", "▁a"]);
    assert_eq!(pieces("unaffordable"), ["[UNK]"]);
    assert_eq!(pieces("affable"), ["[UNK]"]); // "aff" starts no word
    assert_eq!(pieces(""), [""; 0]);
    assert_eq!(pieces(" \u{3000}\u{1}\u{200b}\u{301}"), [""; 0]);
}

#[test]
fn text_is_normalized() {
    assert_eq!(pieces("CAFÉ cafe\u{301} ca\u{0}f\u{ad}e"), ["▁cafe", "▁cafe", "▁cafe"]);
    assert_eq!(pieces("a中a"), ["▁a", "▁中", "▁a"]);
    assert_eq!(pieces("ΣΟΦΌΣ"), ["▁σοφοσ"]);
    assert_eq!(pieces("한"), ["▁ᄒ", "ᅡ", "ᆫ"]);
    assert_eq!(pieces("a\u{2003}a\u{a0}a\ta"), ["▁a"; 4]);
    assert_eq!(pieces("a\u{b}a"), ["▁a", "a"]); // a vertical tab is a control character here
}

#[test]
fn users_cannot_write_special_tokens_or_marks() {
    assert_eq!(pieces("[CLS]"), ["▁[", "▁cls", "▁]"]);
    assert_eq!(pieces("##aff"), ["▁#", "▁#", "[UNK]"]);
    assert_eq!(pieces("▁the a▁the"), ["[UNK]", "[UNK]"]);
    let injected = read(&file(&["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁a", "cls"])).unwrap();
    assert_eq!(injected.encode("a acls", 9).ids, [2, 5, 5, 6, 3]);
    let control = read(&file(&["▁pad", "▁unk", "▁cls", "▁sep", "▁mask", "▁a"])).unwrap();
    assert_eq!(control.encode("pad cls sep a", 9).ids, [2, UNKNOWN, UNKNOWN, UNKNOWN, 5, 3]);
}

#[test]
fn text_matches_neither_special_ids_nor_tokens_of_other_types() {
    let key = b"tokenizer.ggml.token_type";
    let mut file = file(&["▁pad", "▁unk", "▁cls", "▁sep", "▁mask", "▁a", "▁b", "▁c"]);
    file.entries.retain(|entry| entry.key != key);
    let encode = |file: &File| read(file).unwrap().encode("pad unk cls sep mask a b c", 20).ids;
    assert_eq!(encode(&file), [2, 1, 1, 1, 1, 1, 5, 6, 7, 3]);
    // Unused, normal and byte.
    let types: Vec<u8> = [1, 1, 1, 1, 1, 5, 1, 6].into_iter().flat_map(i32::to_le_bytes).collect();
    file.entries.push(Entry::array("tokenizer.ggml.token_type", 5, 8, &types));
    assert_eq!(encode(&file), [2, 1, 1, 1, 1, 1, 1, 6, 1, 3]);
}

#[test]
fn a_word_of_more_than_100_characters_is_unknown() {
    assert_eq!(pieces(&"a".repeat(100)).len(), 100);
    assert_eq!(pieces(&"a".repeat(101)), ["[UNK]"]);
    assert_eq!(pieces(&"a\u{301}".repeat(100)).len(), 100);
    assert_eq!(pieces(&format!("a {} a", "ab".repeat(30_000))), ["▁a", "[UNK]", "▁a"]);
}

#[test]
fn long_texts_are_cut_before_the_separator_and_marked() {
    let tokenizer = tokenizer();
    let encoded = |text: &str, limit: usize| {
        let Encoding { ids, truncated } = tokenizer.encode(text, limit);
        (ids, truncated)
    };
    assert_eq!(encoded("a unaffable a", 5), (vec![2, 9, 5, 6, 3], true));
    assert_eq!(encoded("a unaffable a", 6), (vec![2, 9, 5, 6, 7, 3], true));
    assert_eq!(encoded("a unaffable a", 7), (vec![2, 9, 5, 6, 7, 9, 3], false));
    assert_eq!(encoded("a unaffable a  ", 7), (vec![2, 9, 5, 6, 7, 9, 3], false));
    for limit in 0..3 {
        assert_eq!(encoded(" a", limit), (vec![2, 3], true));
        assert_eq!(encoded(" ", limit), (vec![2, 3], false));
    }
    assert_eq!(encoded(&"a ".repeat(100_000), 512).0.len(), 512);
}

#[test]
fn ids_are_those_of_hugging_face_for_each_setting() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/vectors/tokenizer.json")).unwrap();
    let texts = |name: &str| -> Vec<&str> {
        golden[name].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
    };
    for case in golden["cases"].as_array().unwrap() {
        let mut file = file(&texts("tokens"));
        for setting in ["lowercase", "strip_accents"] {
            if let Some(value) = case[setting].as_bool() {
                file.entries.push(setting_entry(setting, value));
            }
        }
        let tokenizer = read(&file).unwrap();
        for (text, ids) in texts("texts").iter().zip(case["ids"].as_array().unwrap()) {
            let ours = serde_json::Value::from(tokenizer.encode(text, usize::MAX).ids);
            assert_eq!(&ours, ids, "{text:?}: {} {}", case["lowercase"], case["strip_accents"]);
        }
    }
}

fn setting_entry(setting: &str, value: bool) -> Entry {
    Entry::new(&format!("tokenizer.ggml.normalizer.{setting}"), 7, &[u8::from(value)])
}

#[test]
fn settings_that_cannot_be_followed_are_unsupported() {
    let with = |entry: Entry| {
        let mut file = file(&PIECES);
        file.entries.retain(|other| other.key != entry.key);
        file.entries.push(entry);
        read(&file).map(|_| ())
    };
    let unsupported = |entry: Entry, why: &str| {
        assert_eq!(with(entry), Err(NetworkError::Unsupported(why.to_string())));
    };
    let flag = |name: &str, value: u8| Entry::new(&format!("tokenizer.ggml.{name}"), 7, &[value]);
    let nfc = "the tokenizer has the setting normalizer.nfc, expected lowercase and strip_accents at most";
    unsupported(setting_entry("nfc", false), nfc);
    let text = Entry::text("tokenizer.ggml.normalizer.lowercase", b"yes");
    let why = "tokenizer.ggml.normalizer.lowercase is a string of 3 bytes, expected a bool";
    assert_eq!(with(text), Err(NetworkError::Invalid(why.to_string())));
    unsupported(flag("add_bos_token", 0), "tokenizer.ggml.add_bos_token is false, expected true for a bert");
    let why = "tokenizer.ggml.add_sep_token is false, expected true for a bert without add_eos_token";
    unsupported(flag("add_sep_token", 0), why);
    let types: Vec<u8> = (0..PIECES.len()).flat_map(|id| if id == 7 { 4i32 } else { 1 }.to_le_bytes()).collect();
    let types = Entry::array("tokenizer.ggml.token_type", 5, PIECES.len() as u64, &types);
    let why = "tokenizer.ggml.token_type of token 7 is 4 (user-defined), which this tokenizer does not match";
    unsupported(types, why);
    let mut file = file(&PIECES);
    file.entries.push(flag("add_eos_token", 1));
    file.entries.push(Entry::u32("tokenizer.ggml.eos_token_id", 4));
    let why = "tokenizer.ggml.eos_token_id is 4, expected 3, the seperator_token_id";
    assert_eq!(read(&file).map(|_| ()), Err(NetworkError::Unsupported(why.to_string())));
}

#[test]
fn marks_are_put_in_canonical_order() {
    // U+1D16D (class 226) is moved after U+1D165 (216), but not across a letter or a dropped mark of class 0.
    let normalized = |text: &str| {
        let mut all = String::new();
        let _ = Normalizer { lowercase: true, strip_accents: true }.normalize(text, |char| {
            all.push(char);
            ControlFlow::Continue(())
        });
        all
    };
    let (late, early) = ('\u{1d16d}', '\u{1d165}');
    assert_eq!(normalized(&format!("{late}{early}")), format!("{early}{late}"));
    assert_eq!(normalized(&format!("{late}\u{301}{early}")), format!("{early}{late}"));
    assert_eq!(normalized(&format!("{late}\u{34f}{early}")), format!("{late}{early}"));
    assert_eq!(normalized(&format!("{late}a{early}")), format!("{late}a{early}"));
    assert_eq!(normalized("\u{1d15e}"), format!("\u{1d157}{early}"));
}

#[test]
fn of_two_equal_pieces_the_later_counts() {
    let tokenizer = read(&file(&["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁a", "▁a"])).unwrap();
    assert_eq!(tokenizer.encode("a", 9).ids, [2, 6, 3]);
}

#[test]
fn defects_are_named() {
    let refused = |file: &File, why: &str| assert_eq!(read(file).err(), Some(NetworkError::Invalid(why.to_string())));
    let with = |entry: Entry| {
        let mut file = file(&PIECES);
        file.entries.retain(|other| other.key != entry.key);
        file.entries.push(entry);
        file
    };
    let key = "tokenizer.ggml.tokens";
    refused(&File::default(), &format!("{key} is absent, expected an array of strings"));
    refused(&with(Entry::u32(key, 1)), &format!("{key} is 1, expected an array of strings"));
    let empty = format!("{key} is an array of 0 elements of type Str, expected strings");
    refused(&with(Entry::array(key, 8, 0, &[])), &empty);
    let key = "tokenizer.ggml.token_type";
    let short = with(Entry::array(key, 5, 1, &[1, 0, 0, 0]));
    refused(&short, &format!("{key} has 1 elements of type I32, expected 23 of type I32"));
    let nine: Vec<u8> = std::iter::repeat_n(9i32, PIECES.len()).flat_map(i32::to_le_bytes).collect();
    let strange = with(Entry::array(key, 5, PIECES.len() as u64, &nine));
    refused(&strange, &format!("{key} of token 0 is 9, expected 1 to 6"));
    let key = "tokenizer.ggml.bos_token_id";
    refused(&with(Entry::u32(key, 23)), &format!("{key} is 23, expected an id below 23"));
    refused(&with(Entry::text(key, b"2")), &format!("{key} is a string of 1 bytes, expected a u32"));
    let mut file = file(&PIECES);
    file.entries.retain(|entry| entry.key != key.as_bytes());
    refused(&file, &format!("{key} is absent, and its default 101 is no id below 23"));
}

#[test]
fn equal_hashes_end_the_search() {
    let mut slots = slots::Slots::with_room_for(1000);
    let inserted = (0..1000).take_while(|id| slots.insert(slots::Hash::START, *id, |_| false).is_some()).count();
    assert_eq!(inserted, 512);
    assert_eq!(slots.find(slots::Hash::START, |id| id == 511), Some(511));
    assert_eq!(slots.find(slots::Hash::START, |id| id == 512), None);
    assert_eq!(slots.find(slots::Hash::START.with(b"other"), |_| true), None);
}

/// Texts of what the rules are about, and of anything else.
fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("unaffable".to_string()),
        Just(" ".to_string()),
        Just("[CLS]".to_string()),
        Just("cafe\u{301}".to_string()),
        Just("\u{1d16d}".to_string()),
        Just("\u{1d165}".to_string()),
        "[a-c.\\[\\]]{0,110}",
        "\\PC{0,8}",
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(word, 0..20).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_becomes_ids(text in text(), limit in 0usize..40) {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode(&text, limit).ids;
        prop_assert!((2..=limit.max(2)).contains(&ids.len()));
        prop_assert_eq!((ids[0], ids[ids.len() - 1]), (2, 3));
        let inner = &ids[1..ids.len() - 1];
        prop_assert!(inner.iter().all(|id| *id == UNKNOWN || (5..tokenizer.token_count() as u32).contains(id)));
        let whole = tokenizer.encode(&text, usize::MAX).ids;
        prop_assert_eq!(inner, &whole[1..whole.len() - 1][..inner.len()]);
        prop_assert!(inner.len() == whole.len() - 2 || ids.len() == limit.max(2));
    }

    #[test]
    fn texts_around_a_space_do_not_touch(left in text(), right in text()) {
        let tokenizer = tokenizer();
        let ids = |text: &str| {
            let ids = tokenizer.encode(text, usize::MAX).ids;
            ids[1..ids.len() - 1].to_vec()
        };
        prop_assert_eq!(ids(&format!("{left} {right}")), [ids(&left), ids(&right)].concat());
    }
}
