// Text to the words of a vocabulary and back: captioner/tokens.py in JavaScript.
// Python's \w is a letter, a number or "_", its \d a decimal digit, its \s one more handful of control characters.

const W = "\\p{L}\\p{N}_";
const LETTER = "(?:(?!\\p{Nd}|_)[\\p{L}\\p{N}])";
const SPACE = "\\s\\x1c-\\x1f\\x85";
const TOKEN = new RegExp(
  "\\p{Nd}+(?:[.,:/]\\p{Nd}+)+" +
    `|(?:${LETTER}\\.){2,}` +
    `|[${W}][${W}&]*(?:['’]${LETTER}+)?(?:[-/][${W}]+(?:['’]${LETTER}+)?)*` +
    `|['’](?:s|m|d|ll|re|ve)(?![${W}])` +
    `|[^${W}${SPACE}]|\\ufeff`,
  "gu",
);
const CLITIC = /^(.+?)(n't|'(?:s|m|d|ll|re|ve))$/u;
const CLITICS = ["'s", "'m", "'d", "'ll", "'re", "'ve", "n't"];
const WHOLE = new Map(Object.entries({ cannot: "can not", gonna: "gon na", gotta: "got ta", wanna: "wan na", gimme: "gim me" }));
const PUNCTUATION = new Set(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", ..."()[]{}\"“”‘’´«»…–—"]);

/** Tokens of a caption or question, lower case, without punctuation. */
export function tokenize(text) {
  const tokens = [];
  for (const [found] of text.toLowerCase().matchAll(TOKEN)) {
    const token = found.replaceAll("’", "'");
    const clitic = CLITIC.exec(token);
    if (WHOLE.has(token)) tokens.push(...WHOLE.get(token).split(" "));
    else if (clitic) tokens.push(clitic[1], clitic[2]);
    else if (!PUNCTUATION.has(token)) tokens.push(token);
  }
  return tokens;
}

/** Tokens as a person writes them: a clitic stands at its word, unless the two would read as something else. */
export function sentence(tokens) {
  let [text, previous] = ["", ""];
  for (const token of tokens) {
    const glued = CLITICS.includes(token) && !CLITICS.includes(previous) && same(tokenize(previous + token), [previous, token]);
    text += !text || glued ? token : ` ${token}`;
    previous = token;
  }
  return text;
}

const same = (a, b) => a.length === b.length && a.every((each, n) => each === b[n]);
