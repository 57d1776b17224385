// Between questions in words and the answerer's graph: captioner/query.py and captioner/questions.py in JavaScript.

import { PAD, UNKNOWN } from "./bundle.js";
import { tokenize } from "./tokens.js";

export const LIMITS = { max_characters: 1000, max_words: 50, max_history: 20 };
const LONGEST_HISTORY = 200;
const LONGEST_ANSWER = 20;

/** A question that cannot be asked; the reason is that of captioner.query.BadQuestion. */
export class BadQuestion extends Error {
  constructor(reason, message) {
    super(message);
    this.reason = reason;
  }
}

export function check(question, history = []) {
  const short = (field, text) => {
    const reason = field === "question" ? "QUESTION_TOO_LONG" : "HISTORY_TOO_LONG";
    const length = [...text].length;
    const message = `${field}: a text may have ${LIMITS.max_characters} characters, got ${length}`;
    if (length > LIMITS.max_characters) throw new BadQuestion(reason, message);
  };
  short("question", question);
  const words = tokenize(question).length;
  if (!words) throw new BadQuestion("EMPTY_QUESTION", "the question has no words");
  if (words > LIMITS.max_words) throw new BadQuestion("QUESTION_TOO_LONG", `the question may have ${LIMITS.max_words} words, got ${words}`);
  history.forEach((exchange) => (short("history", exchange.question), short("history", exchange.answer)));
}

/** The graph's inputs as rows of word numbers, but for the grid. */
export function inputs({ model, questionVocabulary: vocabulary, answers }, question, history = []) {
  const rows = { question: [vocabulary.encode(tokenize(question))] };
  if (model.answerer.history) {
    const tokens = history.flatMap((exchange) => [...tokenize(exchange.question), ...tokenize(exchange.answer)]);
    rows.history = [vocabulary.encode(tokens).slice(-LONGEST_HISTORY)];
  }
  if (model.answerer.kind === "jabri") rows.candidates = answers.map((answer) => vocabulary.encode(tokenize(answer).slice(0, LONGEST_ANSWER)));
  return rows;
}

/** Rows of numbers as one table {dims, data}, PAD behind the shorter ones; at least one column. */
export function padded(rows) {
  const columns = Math.max(1, ...rows.map((row) => row.length));
  const data = new BigInt64Array(rows.length * columns).fill(BigInt(PAD));
  rows.forEach((row, n) => row.forEach((number, k) => (data[n * columns + k] = BigInt(number))));
  return { dims: [rows.length, columns], data };
}

/** The most probable answers of log-probabilities, first come first where they are equal. */
export function best(answers, logProbs, top) {
  const order = answers.map((_, n) => n).sort((a, b) => logProbs[b] - logProbs[a]);
  return order.slice(0, top).map((n) => ({ text: answers[n], probability: Math.exp(logProbs[n]) }));
}

/** Words of the question that the model does not know, each once, in order. */
export function unknownWords(vocabulary, question) {
  return [...new Set(tokenize(question))].filter((word) => (vocabulary.number.get(word) ?? UNKNOWN) <= UNKNOWN);
}
