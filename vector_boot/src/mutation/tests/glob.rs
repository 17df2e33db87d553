use std::time::{Duration, Instant};

use super::*;
use crate::mutation::glob::{is_glob, matches, Glob};

#[test]
fn matches_what_python_matches() {
    let cases: serde_json::Value = serde_json::from_str(include_str!("../../../tests/vectors/glob.json")).unwrap();
    for case in cases.as_array().unwrap() {
        let (pattern, name) = (case[0].as_str().unwrap(), case[1].as_str().unwrap());
        assert_eq!(matches(pattern, name), case[2].as_bool().unwrap(), "{pattern:?} {name:?}");
    }
}

#[test]
fn a_glob_has_a_special_character() {
    assert!(["a*", "?", "x[", "*"].into_iter().all(is_glob));
    assert!(!["", "blk.0.attn_q.weight", "a]", "!"].into_iter().any(is_glob));
}

#[test]
fn hostile_patterns_take_no_longer() {
    let length = 65_536;
    let name = "a".repeat(63);
    let start = Instant::now();
    for (pattern, matched) in [
        ("*a".repeat(length / 2), false),
        ("*a*".repeat(20) + "b", false),
        ("[".repeat(length), false),
        ("[!".repeat(length / 2), false),
        (format!("*[{}]*b", "a".repeat(length)), false),
        (format!("*[{}]*", "z-a".repeat(length / 3)), false),
        (format!("[!{}]*", "z-a".repeat(length / 3)), true),
        ("*".repeat(length), true),
        ("?*".repeat(63), true),
    ] {
        let glob = Glob::new(&pattern);
        for _ in 0..100 {
            assert_eq!(glob.matches(&name), matched, "{}", &pattern[..20]);
        }
    }
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// By the definition: a star is nothing, or one character and a star.
fn plain(pattern: &[char], name: &[char]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((&'*', after)), None) => plain(after, name),
        (Some((&'*', after)), Some((_, rest))) => plain(after, name) || plain(pattern, rest),
        (Some((p, after)), Some((c, rest))) => (*p == '?' || p == c) && plain(after, rest),
        _ => false,
    }
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn stars_and_question_marks(pattern in "[ab?*]{0,8}", name in "[abé]{0,8}") {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(matches(&pattern, &name), plain(&chars(&pattern), &chars(&name)));
    }

    #[test]
    fn any_text_is_a_pattern(pattern in "[\\[\\]!a-c*?é-]{0,40}|\\PC{0,20}", name in "[a-c\\]-]{0,20}|\\PC{0,20}") {
        matches(&pattern, &name);
    }
}
