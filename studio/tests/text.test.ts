import assert from "node:assert/strict";
import { test } from "node:test";
import { begins, plain, restoreLineEnds, sentence, shortType, splitUnseen, textOf } from "../src/text.ts";

const code = (character: string) => splitUnseen(character);

test("line ends and invisible characters are named", () => {
  assert.deepEqual(splitUnseen("a\nb"), ["a", { code: "U+000A", name: "↵" }, "b"]);
  assert.deepEqual(code("\u202e"), [{ code: "U+202E", name: "RLO" }]);
  assert.deepEqual(code("\u2066"), [{ code: "U+2066", name: "LRI" }]);
  assert.deepEqual(code("\u0000"), [{ code: "U+0000", name: "U+0000" }]);
  assert.deepEqual(code("\u0085"), [{ code: "U+0085", name: "U+0085" }]);
});

test("text without invisible characters stays one part", () => {
  assert.deepEqual(splitUnseen("Zoë 東京 <b>"), ["Zoë 東京 <b>"]);
  assert.deepEqual(splitUnseen(""), []);
});

test("a joiner inside an emoji is part of it; elsewhere it is named", () => {
  const family = "👨\u200d👩\u200d👧";
  assert.deepEqual(splitUnseen(family), [family]);
  assert.deepEqual(splitUnseen("a\u200db"), ["a", { code: "U+200D", name: "ZWJ" }, "b"]);
});

test("the parts of a split text add up to the text", () => {
  const text = "\ufeffone\r\ntwo\u00ad\t\u2029three\u061c";
  const shown = splitUnseen(text).map((part) =>
    typeof part === "string" ? part : String.fromCodePoint(Number.parseInt(part.code.slice(2), 16)),
  );
  assert.equal(shown.join(""), text);
});

test("an edit without a change keeps every line end", () => {
  for (const text of ["", "a\r\nb\nc\rd", "\r\n", "\r\r\n\n"])
    assert.equal(restoreLineEnds(text, text.replace(/\r\n?/g, "\n")), text);
});

test("an edit keeps the line ends of the lines that it does not touch", () => {
  assert.equal(restoreLineEnds("one\r\ntwo\nthree\r\n", "zero\none\ntwo\nthree\n"), "zero\r\none\r\ntwo\nthree\r\n");
  assert.equal(restoreLineEnds("one\r\ntwo\nthree", "one\ntwo\nTHREE"), "one\r\ntwo\nTHREE");
  assert.equal(restoreLineEnds("one\rtwo", "one\n2"), "one\r2");
  assert.equal(restoreLineEnds("a\r\nb\r\nc", "a\nc"), "a\r\nc");
  assert.equal(restoreLineEnds("a\r\nb", ""), "");
});

test("new lines get CRLF if the text has any, otherwise LF", () => {
  assert.equal(restoreLineEnds("a", "a\nb"), "a\nb");
  assert.equal(restoreLineEnds("a\r\nb", "a\nb\nc"), "a\r\nb\r\nc");
});

test("a CR and an LF that an edit joins stay two line ends", () => {
  assert.equal(restoreLineEnds("a\rb", "a\n\nb"), "a\r\n\nb");
  assert.equal(restoreLineEnds("a\rX\nb", "a\n\nb"), "a\r\n\nb");
});

test("a restored text has the lines that were typed", () => {
  const pieces = ["\r\n", "\n", "\r", "a", "b", "😀"];
  // A linear congruential generator, for the same texts in every run.
  let seed = 1;
  const next = (limit: number): number => {
    seed = (seed * 48271) % 0x7fffffff;
    return seed % limit;
  };
  const text = (): string => Array.from({ length: next(9) }, () => pieces[next(pieces.length)]).join("");
  for (let round = 0; round < 5000; round++) {
    const original = text();
    const edited = text().replace(/\r\n?/g, "\n");
    assert.equal(restoreLineEnds(original, edited).replace(/\r\n?/g, "\n"), edited, JSON.stringify([original, edited]));
  }
});

test("NULL is copied as nothing and an array as JSON", () => {
  assert.equal(plain(null), "");
  assert.equal(plain(undefined), "");
  assert.equal(plain(" a\tb "), " a\tb ");
  assert.equal(plain(["1", null, "a,b"]), '["1",null,"a,b"]');
});

test("a cell is measured by the text that it shows", () => {
  assert.equal(textOf(null), "NULL");
  assert.equal(textOf(undefined), "NULL");
  assert.equal(textOf({ cut: "begin", length: 1000 }), "begin");
  assert.equal(textOf(["a", "b"]), "a  b");
});

test("a long text is shortened with an ellipsis", () => {
  assert.equal(begins("abc", 3), "abc");
  assert.equal(begins("abcd", 3), "abc…");
});

test("a text of an error becomes a sentence", () => {
  assert.equal(sentence("write [1]"), "Write [1].");
  assert.equal(sentence("Done?"), "Done?");
  assert.equal(sentence(undefined), "");
});

test("the types of timestamps are shortened", () => {
  assert.equal(shortType("timestamp without time zone"), "timestamp");
  assert.equal(shortType("timestamp with time zone[]"), "timestamptz[]");
  assert.equal(shortType("text"), "text");
});
