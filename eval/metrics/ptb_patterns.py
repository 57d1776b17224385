"""The token rules of Stanford's PTBTokenizer 3.4.1, as regular expressions over the shapes of characters.

A caption is matched through its shape: a string of equal length in which every character of a kind has become one
representative ("д" and "字" are "é", "٣" is "٠", "∀" is "§"); ASCII stands for itself. So the expressions name few
characters. At each place the rule with the longest match wins, what it looks ahead at included; of equals the first.

The behaviours are those of the lexer in CoreNLP 3.4.1 (PTBLexer.flex describes them), found by running it. What cannot
reach a caption's result is left out: the rules that only read the period of "U.S." twice, since periods are dropped.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

# ---------------------------------------------------------------------------------------------------- shapes

UNKNOWN = "\x01"  # what the lexer drops, unless a URL or a tag holds it

# The lexer is of Unicode 6.2. Each line: a shape, and what has it beside or against its category in Unicode.
_SHAPES = {
    # letters and digits that came later
    UNKNOWN: "037F 0528-052F 0560 0588 05EF 0860-089F 08A1 08AD-08C9 0978 0980 09FC 0AF9 0C34 0C5A-0C5D 0C80 0CDC-0CDD "
    "0D04 0D54-0D5F 0DE6-0DEF 0E86 0E89 0E8C 0E8E-0E93 0E98 0EA0 0EA8-0EA9 0EAC 13F5-13FD 16F1-16F8 170D 171F 1878 "
    "191D-191E 19B0-19C0 19C8-19C9 1B4C 1C80-1CBF 1CF2-1CF3 1CFA 2C2F 2C5F 312E-312F 31BB-31BF 4DB6-4DBF 9FCD-9FFF "
    "A698-A69D A78F A794-A79F A7AB-A7F7 A8FD-A8FE A9E0-A9FE AA7E-AA7F AB30-ABBF",
    # letters that are marks now
    "é": "1885-1886",
    # marks and signs that count as letters of a word, but not of other tokens
    "\u0301": "02C2-02C5 02D2-02DF 02E5-02EB 02ED 02EF-036F 0375 0378-0379 0384-0385 03F6 0483-0487 055A-055F "
    "0591-05BD 05BF 05C1-05C2 05C4-05C5 05C7 0615-061A 064B-065E 0670 06D6-06E4 06E7-06ED 06FD-06FE 070F "
    "0711 0730-074C 07A6-07B0 07EB-07F3 0900-0903 093C 093E-094E 0951-0955 0962-0963 0981-0983 09BC "
    "09BE-09C4 09C7-09C8 09CB-09CD 09D7 09E2-09E3 0A01-0A03 0A3C 0A3E-0A4F 0A81-0A83 0ABC 0ABE-0ACF 0B82 "
    "0BBE-0BC2 0BC6-0BC8 0BCA-0BCD 0C01-0C03 0C3E-0C56 0D3E-0D44 0D46-0D48 0E31 0E34-0E3A 0E47-0E4E 0EB1 "
    "0EB4-0EBC 0EC8-0ECD",
    # symbols and foreign punctuation that are tokens by themselves
    "§": "00A1 00A6-00A9 00AC 00AE-00B1 00B4 00B6-00B8 00BF 00D7 00F7 037E 0387 0589 05BE 05C0 05C3 05C6 05F3-05F4 "
    "0600-0603 0606-060A 060C 0614 061B 061E-061F 066A 066D 06D4 0700-070D 07F6-07F8 0964-0965 0E4F 1FBD "
    "2016-2017 2020-2023 2030-2038 203B 203E-2042 207C-207E 208C-208E 2100-2101 2103-2106 2108-2109 2114 "
    "2116-2118 211E-2123 2125 2127 2129 212E 213A-213B 2140-2144 214A-214D 214F 2190-2BFF 3002 3012 30FB "
    "FF01-FF0F FF1A-FF20 FF3B-FF40 FF5B-FF65",
    "£": "0080 00A2-00A5 060B 0E3F 20A0 20A4 20AC FFE0-FFE1 FFE5-FFE6",
    "½": "00BC-00BE 2153-215E",
    "²": "00B2-00B3 00B9 2070 2074-2079",
    "₂": "2080-2089",
    "⁺": "207A-207B 208A-208B",
    "٫": "066B-066C",
    "–": "0096-0097 2013-2015",
    "’": "0092 2019",
    "‘": "0091 2018 201B",
    "“": "0093-0094 00AB 00BB 201A 201C-201F 2039-203A",
    "‐": "058A 2010-2011",
    "\u2003": "2000-200A 3000",
    "\u2028": "2028-2029",
    "\u200b": "200B 200E-200F FEFF",
}
# Each its own shape; the first four are letters that some of the expressions know as i, s and k.
_THEMSELVES = "ıİſ\u212a\xa0\xad\x85⁄…、"


def _shape(code: int) -> str:
    category = unicodedata.category(chr(code))
    return "é" if category[0] == "L" else "٠" if category == "Nd" else UNKNOWN


class _ShapeTable(dict[int, str]):
    """For str.translate: the shape of every character of the Basic Multilingual Plane, worked out when first met."""

    def __missing__(self, code: int) -> str:
        self[code] = shape = chr(code) if code < 128 else _shape(code)
        return shape


SHAPES = _ShapeTable({ord(character): character for character in _THEMSELVES})
for _to, _ranges in _SHAPES.items():
    for _range in _ranges.split():
        _first, _, _last = _range.partition("-")
        SHAPES.update(dict.fromkeys(range(int(_first, 16), int(_last or _first, 16) + 1), _to))

# ---------------------------------------------------------------------------------------------------- pieces
# Upper-case names are bodies of character classes, to be put between brackets; the rest are expressions.

_SPACE = " \t\xa0\u2003"
_SPACENL = _SPACE + "\r\n\x0b\x0c\x85\u2028"
_DIGIT = "0-9٠"
_L = "A-Za-zéıİſ\u212a"  # letters
_LD = _L + _DIGIT
_AZ = "A-Za-z"
_AZ09 = "A-Za-z0-9"

_blank = rf"(?:\r\n|[{_SPACENL}])"
_letter_entity = "&[aeiouAEIOU](?i:acute|grave|uml);"
_letters = rf"(?:[{_L}\u0301\xad]|{_letter_entity})"
_word_part = rf"{_letters}(?:[{_LD}\u0301\xad]|{_letter_entity})*"
_word = rf"{_word_part}(?:[.!?]{_word_part})*"
_apos = "(?:['’]|(?i:&apos;))"
_apos_etc = "(?:['’‘`]|(?i:&apos;))"
_reduced = rf"{_apos}(?:[msdMSD]|(?i:re|ve|ll))"  # 's 'm 'd 're 've 'll
_n_t = rf"(?i:n){_apos_etc}(?i:t)"
_before_n_t = rf"[{_AZ}\xad]*[A-MO-Za-mo-z]\xad*"
_number = rf"(?:[{_DIGIT}]*(?:[.:,\xad٫][{_DIGIT}]+)+|[{_DIGIT}]+)"
_inside_sentence = "[,;:、]"


# Abbreviations
_states = r"(?i:u\.s\.-u\.(?:k|s\.s\.r)|(?:canada|sino|korean|eu|japan|non)-u\.s)"
_acronym = rf"(?:{_states}|[{_AZ}](?:\.[{_AZ}])*)"
_long_acronym = rf"(?:{_states}|[{_AZ}](?:\.[{_AZ}])+)"
_abbreviation = (
    r"(?:(?i:al|ala|apr|ariz|assn|aug|bancorp|bhd|bldg|blvd|bros|calif|colo|conn|corp|cos?|ct|dak|dec|(?:ed|ph)\.d|esq|est|"
    "etc|ext|feb|fla|fri|ga|inc|ind|intl|jan|jr|jul|jun|kans?|ky|ltd|mar|md|mich|minn|mo|mont?|neb|nev|nov|oct|okla|penn|"
    "plc|rd|rt|sept?|seq|sq|sr|sys|tel|tenn|thu(?:rs)?|tues?|univ|va|vt|wed|wisc?|wyo)|(?i:pp?t)[ye](?i:s?)|"
    r"A(?i:z|rk)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass|iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash))\."
)
_before_capital = (
    r"(?:(?i:adj|adm|adv|alex|assoc|asst|attys?|ave|brig|capt|cf|cie|co?mdr|col|cpl|dept|det|drs?|elec|ens|ft|gen|"
    "govs?|hon|insp|invt|jos|lieut|lt|maj|messrs|m[ft]g|mlle|mme|mrs?|ms|msgr|mt|natl|pfc|ph|pres|profs?|pvt|reps?|rev|"
    rf"sens?|sfc|sgt|spc|ste?|supts?|treas|vs|wm)|{_acronym})"
)
_before_number = r"(?i:art|bldg|ca|figs?|nos?|op|pp|prop)\."
_sentence_start = (
    r"(?:A(?i:bout|ccording|dditionally|fter|n?|s|t)|B(?i:ut)|E(?i:arlier)|H(?i:e|er|ere|owever)|I(?i:[fnt])|L(?i:ast)|"
    r"M(?i:any|ore|[rs]\.)|N(?i:ow)|O(?i:nce|ne|ther|ur)|S(?i:he|ince|o|ome|uch)|T(?i:hat|he|hen|here|hese|hey|his)|"
    r"W(?i:e|hen|hile|hat)|Y(?i:et|ou))"
)

# Words with an apostrophe that stay whole
_with_apostrophe = [
    rf"{_apos}[nN]{_apos}?",
    rf"[lLdDjJ]{_apos}",
    rf"(?i:dunkin|somethin|ol){_apos}",
    rf"{_apos}(?i:em|till?|cause)",
    rf"{_apos}[2-9]0(?i:s)",
    rf"[A-HJ-XZn]{_apos_etc}[{_L}]{{2,}}",
    rf"[{_L}]+[aeiouyAEIOUY]{_apos_etc}[aeiouA-Z][{_L}]*",
    r"(?i:cont'd\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l)",
    rf"[oO]{_apos_etc}[oO]",
]

# Compounds
_thing_part = rf"(?:[dDoOlL]{_apos_etc}[{_LD}])?[{_LD}]+"  # "l'homme"
_thing = rf"{_thing_part}(?:[-_‐]{_thing_part})*"
_hyphenated = rf"[{_AZ09}][{_AZ09}.,\xad]*(?:-(?:{_long_acronym}\.|[{_AZ09}\xad]+))+"
_joined = r"[A-Z]+(?:(?:(?i:&amp;)|[+&])[A-Z]+)+"  # "AT&T"

# Things of the web
_in_url = r"[^ \t\n\f\r\"<>|()]"
_ends_url = r"[^ \t\n\f\r\"<>|.!?(){},-]"
_urls = [
    rf"(?i:https?)://[^ \t\n\f\r\"<>|(){{}}]+{_ends_url}",
    rf"(?i:www)\.(?:[^ \t\n\f\r\"<>|.!?(){{}},]+\.)+[{_AZ}]{{2,4}}(?:/{_in_url}+{_ends_url})?",
    rf"(?:[^ \t\n\f\r\"`'<>|.!?(){{}},-_$]+\.)+(?i:com|net|org|edu)(?:/{_in_url}+{_ends_url})?",
]
_email = (
    rf"(?:(?i:&lt;)|<)?[{_AZ09}][^ \t\n\f\r\"<>|()\xa0{{}}]*@"
    r"(?:[^ \t\n\f\r\"<>|(){}.\xa0]+\.)*[^ \t\n\f\r\"<>|(){}.\xa0]+(?:(?i:&gt;)|>)?"
)
_name = rf"[{_AZ}][{_AZ09}_:.-]*"
_value = "(?:'[^']*'|\"[^\"]*\")"
_tag = rf"<(?:[!?][{_AZ}-][^>\r\n]*|{_name}(?: +(?:{_name}|{_name} *= *{_value}))* */?|/{_name}) *>"
_file_part = rf"(?:[{_LD}\u0301\xad]|{_letter_entity})+"
_filename_end = (
    "(?i:bat|bmp|c|class|cgi|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt|"
    "wav|x|xml|zip)"
)
_phones = [
    r"(?:\([0-9]{2,3}\)[ \xa0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \xa0])?[0-9]{2,4}[- \xa0])[0-9]{3,4}[- \xa0]?[0-9]{3,5}",
    r"(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}",
]
_asian_smileys = [
    r"[\^x=~<>]\.\[\^[xX]=[^<\n]*<>\]",
    r"[-^x=~<>']_[-^x=~<>']",
    r"\([-^x=~<>'][_.]?[-^x=~<>']\)",
    r"\([\^x=~<>']-[\^x=~<>'`]\)",
]


class Rule(NamedTuple):
    """An expression, and what becomes of its token (ptb.py). Its group, if any, is the token; the rest looks ahead."""

    kind: str
    expression: re.Pattern[str]


def _rules(kind: str, *expressions: str) -> list[Rule]:
    return [Rule(kind, re.compile(expression)) for expression in expressions]


RULES = [
    *_rules("as is", r"(?i:c\+\+|[cf]#)"),
    *_rules("as is", "((?i:can))(?i:not)", "('[tT])(?i:was)"),
    *_rules("as is", "('[tT])(?i:is)", "((?i:gon|wan))(?i:na)", "((?i:got))(?i:ta)", "((?i:lem|gim))(?i:me)"),
    *_rules("one piece", _tag),
    *_rules("dash", "–|(?i:&(?:md|mdash|ndash);)"),
    *_rules("ampersand", "(?i:&amp;)"),
    *_rules("as is", "(?i:&(?:ht|tl|ur|lr|qc|ql|qr|odq|cdq|#[0-9]+);)"),
    *_rules("word", rf"({_word}){_reduced}", rf"({_before_n_t}){_n_t}", _word),
    *_rules("as is", *_with_apostrophe, rf"([yY]{_apos})[{_L}]"),
    *_rules("as is", *_urls, _email, rf"@[{_AZ}_][{_AZ09}_]*", rf"#{_letters}+"),
    *_rules("quote", rf"({_reduced})[^{_AZ}]", rf"({_n_t})[^{_AZ}]"),
    *_rules("as is", rf"[{_DIGIT}]{{1,2}}[-/][{_DIGIT}]{{1,2}}[-/][{_DIGIT}]{{2,4}}"),  # a date
    *_rules("word", rf"[+-]?{_number}"),
    *_rules("as is", "⁺?(?:²+|₂+)"),
    *_rules("one piece", rf"(?:[{_DIGIT}]{{1,4}}[- \xa0])?[{_DIGIT}]{{1,4}}(?:\\?/|⁄)[{_DIGIT}]{{1,4}}"),
    *_rules("fraction", "½"),
    *_rules("ampersand", r"(?i:-(?:[rl][rcs]b)-|c\.d\.s|pro-|anti-|s(?:&|&amp;)(?:p-500|ls))"),
    *_rules("as is", rf"(?i:cap){_apos}[nN]", rf"[cC]{_apos}(?i:est)"),
    *_rules("as is", rf"[{_AZ09}]+(?:-[{_AZ}]+){{0,2}}(?:\\?/[{_AZ09}]+(?:-[{_AZ}]+){{0,2}}){{1,2}}"),  # black/white
    *_rules("as is", r"[A-Z]*\$|#"),
    *_rules("currency", "£"),
    *_rules("as is", rf"([{_AZ}])\.[{_SPACENL}]+(?:{_sentence_start}|{_tag}){_blank}"),  # "vitamin A. The"
    *_rules("as is", rf"({_before_number}){_blank}?[{_DIGIT}]"),
    *_rules("as is", rf"((?i:pt[ey]|co)\.)[{_SPACE}](?i:ltd|lim)"),
    *_rules("as is", rf"({_abbreviation})(?s:..)"),
    *_rules("period twice", _abbreviation),  # at the end: the period is read again
    *_rules("as is", rf"{_before_capital}\.", rf"({_before_capital})[{_SPACE}]", rf"({_acronym}){_blank}"),
    *_rules("as is", rf"({_apos}[0-9][0-9]){_blank}"),
    *_rules("as is", rf"({_file_part}(?:\.{_file_part})*\.{_filename_end})(?:{_blank}|[.?!,])"),
    *_rules("word", rf"({_word}\.){_inside_sentence}"),
    *_rules("parentheses", *_phones),
    *_rules("left quote", rf"(\"|(?i:&quot;))[{_AZ09}$]"),
    *_rules("quote", '"|(?i:&quot;)'),
    *_rules("less", "<|(?i:&lt;)"),
    *_rules("greater", ">|(?i:&gt;)"),
    *_rules("parentheses", rf"([<>]?[:;=][-o*']?[()DPdpO\\{{@|\[\]])[^{_AZ09}]", *_asian_smileys),
    *_rules("bracket", r"[{}()\[\]]"),
    *_rules("hyphens", "-+"),
    *_rules("dots", r"\.{3,5}|(?:\.[ \xa0]){2,4}\.|[\x85…]"),
    *_rules("as is", r"@+|#+|_+|\*+|(?:\\\*){1,3}"),
    *_rules("as is", "[,;:、]|[?!]+|[.=/]"),
    *_rules("word", rf"({_hyphenated}\.){_inside_sentence}", _hyphenated),
    *_rules("as is", rf"({_thing}\.){_inside_sentence}", _thing),
    *_rules("ampersand", rf"({_joined}\.){_inside_sentence}", _joined),
    *_rules("left quote", rf"(')[{_AZ}][^ \t\n\r\xa0]"),
    *_rules("quote", _reduced, _n_t),
    *_rules("quote", _apos, "''", "[`’‘“]{1,2}"),
    *_rules("as is", "<<|>>", r"[+%&~^|\\§⁄⁺]"),
    *_rules("skipped", rf"[{_SPACE}]+", "(?i:&nbsp;)", "(?s:.)"),
]

# For speed. Words that are two tokens; words that a period after them may belong to.
SPLIT_WORDS = frozenset(["cannot", "gonna", "gotta", "wanna", "lemme", "gimme"])
ABBREVIATED = re.compile(rf"{_abbreviation}|{_before_capital}\.|{_before_number}")
# A piece whose tokens are the same whatever comes after its space: no rule that reads on could start in it.
_closed = rf"[^{_SPACENL}{_DIGIT}.<]"
CLOSED = re.compile(rf" *({_closed}+(?=[ \n])|(?:{_closed}|[{_DIGIT}])+(?= +[{_AZ}]|\n)|\.(?=\n))")
