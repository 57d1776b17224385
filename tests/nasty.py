"""Captions that nobody should write: what the tests of the tokeniser and of the metrics feed to both sides."""

# ruff: noqa: E501, SIM905 - lists of odd things read best as lines of odd things

from __future__ import annotations

import random

# Each list is a kind; the generator picks a kind first, so that rare kinds are met as often as common ones.
KINDS: dict[str, list[str]] = {
    "words": "a man The dogs two Women running street grey colour theatre children's café Straße naïve ΣΑΣ İstanbul".split(),
    "contractions": (
        "cannot Cannot gonna gotta wanna gimme lemme dunno d'ye y'all ya'll 'tis ’tis 'twas 'Tisn't isn't ISN'T ain’t "
        "can`t o'clock O'Brien rock'n'roll 'n' ol' 'em ’em 'cause 'till '90s '09 '80 c'mon ma'am cap'n c'est l'homme "
        "D'Artagnan she'd've they're I'm It's who'll nor'easter li'l cont'd don'ts somethin' y'know n't 's 'S 've"
    ).split(),
    "possessives": "dog's dogs' James' boss’s man`s 1990's U.S.'s 'dog 'dog' ''dog'' 's' s's the's&apos;s dog&apos;s".split(),
    "quotes": ["'", '"', "''", "``", "`", "‘", "’", "“", "”", "„", "‚", "«", "»", "‹", "›", "´", "&quot;", "&apos;", '"a', "'a "],
    "dashes": ["-", "--", "---", "----", "-----", "–", "—", "―", "‐", "‑", "−", "_", "__", "&mdash;", "&ndash;", " - "],
    "dots": [".", "..", "...", "....", "......", ". . .", ". . . .", "…", ".\xa0.\xa0.", ". .", "?!", "!!!", "???", "!", "?"],
    "brackets": ["(", ")", "[", "]", "{", "}", "<", ">", "<<", ">>", "-LRB-", "-rcb-", "(a)", "[sic]", "(555)", "&lt;", "&gt;"],
    "abbreviations": (
        "Mr. mrs. Dr. St. Ave. U.S. u.s. U.S U.S.A. U.K.'s a.m. p.m. e.g. i.e. etc. Inc. Ltd. Co. Corp. Jr. Sr. Ph.D. "
        "vs. no. No. Fig. figs. pp. ca. Prop. Jan. Sept. Mon. Calif. Ill. ill. Mass. mass. Tex. tex. del. Del. Pty. A. "
        "b. I. J.R.R. non-U.S. U.S.-U.K. a.k.a Mt. ft. sq. Blvd. Rd. approx. al. v. B.C. D.C., jr., Bros.: PTE."
    ).split(),
    "sentence starts": ["A. The dog", "I. It is", "U.S. The ", "B. Mr. X", "no. 5", "fig. 3", "pty. ltd", "Co. Limited", "etc. A"],
    "numbers": (
        "1 22 333 1,000 1,000.50 3.14 .5 :5 -7 +3 1. 5, 10:30 10:30am 2nd 3rd 1st 100% 4x4 2-year-old 3-1 1/2 3/4 1\\/2 "
        "11/12 12/12/2012 2012-12-12 1-2-34 ½ ¼ ⅓ ⅔ ⅛ 1½ 3⁄4 x² H₂O ⁺² ٣ ٤٥ ५ 1٫5 1:2:3 5'6\" #1 #23 No.1 B-52 F/A-18"
    ).split(),
    "spaced numbers": ["1 1/2", "2\xa03/4", "555-1234", "(555) 555-1234", "555.123.4567", "+1 555 123 4567", "12 345 6789"],
    "currency": ["$", "$5", "US$", "C$20", "£", "£5", "€", "€6.50", "5¢", "¥", "¤", "₠", "₤", "₹", "฿", "50 cents", "\x80"],
    "web": (
        "http://a.b/c?d=1&e=2 https://www.x.org/, HTTP://X.Y. http://x ftp://a.b www.foo.com www.a.co.uk/x) foo.com bar.NET "
        "x.org/a/b. me@x.com <me@x.com> a@b me@x.com, @name @Name_1: #tag #Tag123 #1 #tag-1 a_b __init__ C++ c# f# j++ "
        "photo.jpg img_1.png a.b.txt, readme.txt foo.bar foo!bar hello.World 127.0.0.1 C:\\x\\y ~/x x.html?"
    ).split(),
    "smileys": [":)", ":-)", ";)", ":(", ":-(", "=D", ":P", ":p", ">:(", "<3", ":'(", "^_^", "(^_^)", "(-_-)", "x_x", ":]", ":|", "8)", "=.[^x=<>]"],
    "markup": [
        "<b>", "</b>", "<br/>", "<br />", '<a href="x y">', "<!-- x -->", "<?xml?>", "<1>", "< b>", "<a b=c d>", "<a",
        "&amp;", "&AMP;", "AT&amp;T", "&nbsp;", "&#39;", "&eacute;", "caf&eacute;s", "&foo;", "&", "&&", "&HT;",
    ],
    "joined": "A&P AT&T R&B a&b S&P-500 s&ls Q+A A+ black/white and/or red-and-white/blue a/b/c/d w/ w/o T-shirt co-ed x-".split(),
    "signs": ["*", "**", "\\*", "***", "/", "//", "\\", "|", "~", "^", "=", "==", "+", "%", "@", "@@", "#", "##", ";", ":", ",", "´", "°", "©", "™", "•", "§", "×", "→", "♥", "¿", "¡"],
    "unicode": ["日本語", "日 本", "한국", "привет", "ΟΔΟΣ", "שלום", "عربي", "हिन्दी", "ไทย", "ﬁ", "ſ", "ı", "İ", "\u212a", "é", "e\u0301", "ß", "Ⅳ", "Ⓐ", "ⓐ", "。", "、", "，", "！", "ー", "・", "\ufeff", "Ა", "Ꞔ"],
    "emoji": ["😀", "👍🏽", "👨‍👩‍👧", "🇬🇧", "❤️", "☺", "⚽", "✈", "😀dog", "dog😀", "𝒳", "𠀀"],
    "invisible": ["\xad", "soft\xadhyphen", "\xa0", "a\xa0b", "\u200b", "\u200d", "\u2009", "\u3000", "\t", "\x00", "\x01", "\x07", "\x1b", "\x7f", "\x81", "\x92", "\x93", "\x96", "\n", "  ", "\u202f", "\u2060", "\ufffd", "\ue000"],
    "cut": ["http://", "www.", "@", "#", "&am", "<a href=", "'", "it'", "n'", "U.", "U.S", "1/", "1,", "(5", "-L", "co", "Inc", "a.k.", ".c", ".com", "$.", "y'"],
}  # fmt: skip

_ASCII = [chr(code) for code in range(32, 127)]


def nasty_captions(count: int, seed: int) -> list[str]:
    """Captions of pieces from all kinds, sometimes joined without a space, and of random printable ASCII."""
    pick = random.Random(seed)
    return [_caption(pick) for _ in range(count)]


def _caption(pick: random.Random) -> str:
    if pick.random() < 0.1:
        return "".join(pick.choice(_ASCII) for _ in range(pick.randint(0, 30)))
    space = pick.choice(["", " ", " ", " "])
    pieces = [_piece(pick) for _ in range(pick.randint(0, 10))]
    return "".join(piece + (space if pick.random() < 0.8 else "") for piece in pieces)


def _piece(pick: random.Random) -> str:
    piece = pick.choice(KINDS[pick.choice(list(KINDS))])
    if pick.random() < 0.1:
        piece = pick.choice(
            [piece.upper(), piece.title(), piece[: pick.randint(0, len(piece))], piece + pick.choice(_ASCII)]
        )
    return piece
