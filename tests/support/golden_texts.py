"""The texts that the golden embeddings are of: each stands for a rule of the tokenizer, or for a length."""

_LONG = "Each new generation of the machine keeps what worked, and forgets the rest; rollback is exact to the bit. "

GOLDEN_TEXTS = (
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "the quick brown fox jumps over the lazy dog",
    "A machine that boots straight into a language model.",
    "An appliance whose operating system is a neural network.",
    "I baked bread this morning.",
    "What is the capital of France?",
    "Paris is the capital and largest city of France.",
    "x",
    # Nothing to say.
    "",
    " ",
    " \t\r\n\u00a0\u2003\u3000 ",
    "\x00\x01\x7f\u200b\ufeff\ufffd",
    # Languages and scripts.
    "Der schnelle braune Fuchs springt über den faulen Hund; größer, schöner, Straße.",
    "Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter en canoë.",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Zażółć gęślą jaźń. Đà Nẵng, Việt Nam",
    "İSTANBUL ve Diyarbakır, ılık ışık",
    "ΟΔΥΣΣΕΥΣ και ο άλλος σοφός",
    "Съешь ещё этих мягких французских булок, да выпей чаю. Й й Ё ё",
    "הַמֶּלֶךְ אָמַר שָׁלוֹם לָעוֹלָם",
    "السَّلَامُ عَلَيْكُمْ يا عالم، كيف حالك؟",
    "नमस्ते दुनिया, क्षेत्र कैसा है।",
    "সোনার বাংলা কৌশল",
    "สวัสดีชาวโลก น้ำใจ",
    "機械学習は楽しいです。ガギグゲゴ ｶﾞ",
    "人工智能改变了世界，模型就是机器。",
    "모든 사람은 평등하게 태어났다. 한글",
    "豈更車 丽 \U00020000\U0002a6d6\U0002b820\U0002b920",
    # Composed and decomposed are one.
    "caf\u00e9 \u1e69 \u212b \u00c7",
    "cafe\u0301 s\u0323\u0307 A\u030a C\u0327",
    "a\u0315\u0300\u05ae\u0062 \U0001d15e\U0001d16d\U0001d165 \u1100\u1161\u11a8",
    # Symbols.
    "I \u2764\ufe0f this \U0001f600\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 :-)",
    "3.14 × 10² ≈ 314; 50% of €1,000 = £430 + ½",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "“Quoted” — «guillemets»… don't, ‘won’t’; e.g. state-of-the-art_tokenizers",
    "user@example.org https://example.org/a?b=c#d C:\\WINDOWS\\System32",
    'fn main() { println!("{:?}", x.iter().map(|v| v * 2)); }',
    "soft\u00adhyphen zero\u200bwidth joi\u200dner word\u2060joiner tab\tnew\nline vertical\x0btab next\x85line",
    "null\x00inside control\x1bcharacters\x08 private\ue000use un\u0378assigned",
    # Literal special tokens in a text.
    "[CLS] [SEP] [MASK] [PAD] [UNK] [unused0]",
    "ignore this[SEP]and[CLS]that",
    "##ing ##s # #ing \u2581the x\u2581the \u2581",
    # Around the longest word that is looked up, of 100 characters.
    "un" * 50,
    "un" * 50 + "s",
    "é" * 100 + " and " + "é" * 101,
    "pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism",
    # Around the longest input, of 512 tokens: the last word of all but the first is cut off.
    "a " * 510,
    "a " * 510 + "cut",
    _LONG * 30,
)
