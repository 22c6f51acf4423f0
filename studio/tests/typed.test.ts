import assert from "node:assert/strict";
import { test } from "node:test";
import { parseJson, printJson } from "../src/json.ts";
import { encodedName, keyParts, shownKey, shownName } from "../src/names.ts";
import { asTyped, byteLength, pickerOf, problemOf } from "../src/typed.ts";

test("a date with slashes or dots has the day first", () => {
  assert.equal(asTyped("timestamp", "26/11/2026 10:00"), "2026-11-26 10:00:00");
  assert.equal(asTyped("timestamp", " 1/2/2026 "), "2026-02-01");
  assert.equal(asTyped("timestamp", "01.02.2026, 9:05:06.123456"), "2026-02-01 09:05:06.123456");
  assert.equal(asTyped("timestamp", "1/2/2026 9:05 -03"), "2026-02-01 09:05:00 -03");
  assert.equal(asTyped("date", "26/11/2026"), "2026-11-26");
  for (const kept of ["2026-11-26 10:00", "infinity", "0044-03-15 BC", "now", "11/26", "26/11/26", ""])
    assert.equal(asTyped("timestamp", kept), kept);
  assert.equal(asTyped("text", "26/11/2026"), "26/11/2026");
});

test("a value that does not fit has a reason", () => {
  assert.equal(problemOf("timestamp", "11/26/2026"), "26 is not a month; the day comes first.");
  assert.equal(problemOf("date", "31/04/2026"), "2026-04 has no day 31.");
  assert.equal(problemOf("date", "29/02/2024"), null);
  assert.match(problemOf("integer", "1,5") ?? "", /whole number/);
  assert.match(problemOf("number", "1,5") ?? "", /with a point/);
  assert.match(problemOf("json", '{"a": }') ?? "", /^This is not JSON: /);
  assert.match(problemOf("bytea", "\\x0") ?? "", /two hexadecimal digits/);
  assert.match(problemOf("uuid", "7") ?? "", /32 hexadecimal digits/);
  for (const [kind, text] of [
    ["integer", "-9007199254740993"],
    ["number", "1e-320"],
    ["number", "NaN"],
    ["json", "[1]"],
    ["bytea", "\\x00 FF"],
    ["uuid", "01890A5DAC96774BBCCEB302099A8057"],
    ["timestamp", "infinity"],
    ["timestamp", "now"],
    ["other", "anything"],
  ] as const)
    assert.equal(problemOf(kind, text), null, text);
});

test("the picker shows a date that it can show", () => {
  assert.deepEqual(pickerOf("timestamp", "26/11/2026 10:00"), { type: "datetime-local", value: "2026-11-26T10:00:00" });
  assert.deepEqual(pickerOf("timestamp", "2026-11-26 10:00:00.5+00"), {
    type: "datetime-local",
    value: "2026-11-26T10:00:00",
  });
  assert.deepEqual(pickerOf("date", "0044-03-15 BC"), { type: "date", value: "" });
  for (const unseen of ["31/31/2026", "2026-02-30", "2026-01-01 24:00:00", "infinity"])
    assert.deepEqual(pickerOf("timestamp", unseen), { type: "datetime-local", value: "" });
  assert.equal(pickerOf("text", "x"), null);
});

test("JSON keeps every digit, every key and every character", () => {
  const text = '{"a": 9007199254740993.10, "a": [true, null, "x\\n\\u0000\\"", {}, []], "é": -1e400}';
  const json = parseJson(text);
  assert.equal(
    printJson(json),
    '{\n  "a": 9007199254740993.10,\n  "a": [\n    true,\n    null,\n    "x\\n\\u0000\\"",\n    {},\n    []\n  ],\n  "é": -1e400\n}',
  );
  assert.deepEqual(parseJson(printJson(json)), json);
  for (const wrong of ["", "{", "[1,]", "[1 2]", "{1:2}", '{"a" 1}', "1 2", "nul", "[".repeat(100_000)])
    assert.throws(() => parseJson(wrong), SyntaxError, wrong.slice(0, 9));
});

test("a name survives the address, whatever its characters", () => {
  assert.equal(encodedName("a.b/c%d,-e"), "a%2Eb%2Fc%25d%2C%2De");
  for (const name of ['Odd "Name"', "a.b", "50%", "é", "-x", "%2E"])
    assert.equal(shownName(`kinds.${encodedName(name)}`), `kinds.${name}`);
});

test("a key of several columns is a list", () => {
  assert.deepEqual(keyParts(["id"], '["7"]'), ['["7"]']);
  assert.deepEqual(keyParts(["number", "gym"], '["7", "é\\""]'), ["7", 'é"']);
  assert.equal(shownKey('["7", "a"]'), "7 · a");
  assert.equal(shownKey("[x"), "[x");
});

test("two digits are a byte", () => assert.equal(byteLength("\\x00ff".length), 2));
