import assert from "node:assert/strict";
import { test } from "node:test";
import {
  csvLines,
  insertStatement,
  jsonLines,
  jsonObject,
  PLAIN_CSV,
  tabSeparated,
  type Values,
} from "../src/written.ts";

const HEADS = [
  { name: "id", type: "integer" },
  { name: 'Odd "Name"', type: "text" },
  { name: "tags", type: "text[]" },
];
const csv = (rows: Values[], options = {}): string => [...csvLines(HEADS, rows, { ...PLAIN_CSV, ...options })].join("");

test("CSV quotes texts, so that an empty text differs from NULL", () => {
  assert.equal(
    csv([
      ["1", "", null],
      [null, 'a "b"\r\nc', ["x,y", null, 'q"\\']],
    ]),
    'id,"Odd ""Name""",tags\r\n1,"",\r\n,"a ""b""\r\nc","{""x,y"",NULL,""q\\""\\\\""}"\r\n',
  );
});

test("CSV takes another separator, another NULL and a byte order mark", () => {
  const text = csv([["1", null, null]], { separator: ";", nulls: "\\N", mark: true });
  assert.equal(text, '\ufeffid;"Odd ""Name""";tags\r\n1;\\N;\\N\r\n');
  assert.equal(csv([["1", "a", []]], { separator: "\t" }), 'id\t"Odd ""Name"""\ttags\r\n1\t"a"\t"{}"\r\n');
  const odd = [...csvLines([{ name: "a;b", type: "int4" }], [["1"]], { ...PLAIN_CSV, separator: ";" })];
  assert.deepEqual(odd, ['"a;b"\r\n', "1\r\n"]);
});

test("a text that a spreadsheet would compute gets an apostrophe, a negative number does not", () => {
  for (const text of ["=1+1", "+351", "-5", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "－1"])
    assert.ok(csv([["-5", text, null]], { harmless: true }).includes(`\n-5,"'${text}",`), JSON.stringify(text));
  assert.ok(csv([["-5", "a=b", null]], { harmless: true }).includes('-5,"a=b"'));
  const head = [...csvLines([{ name: "=cmd()", type: "text" }], [], { ...PLAIN_CSV, harmless: true })];
  assert.deepEqual(head, ["'=cmd()\r\n"]);
});

test("tab-separated values are quoted only where a spreadsheet needs it", () => {
  assert.equal(
    tabSeparated([
      ["1", "a b", null],
      [undefined, 'two\nlines "x"', "7"],
    ]),
    '1\ta b\t\n\t"two\nlines ""x"""\t7',
  );
});

test("JSON keeps every digit, and nests JSON columns", () => {
  const heads = ["int8", "numeric", "bool", "jsonb", "json", "int4[]", "text", "float8"].map((type) => ({
    name: "v",
    type,
  }));
  const row = ["9007199254740993", "1.50", "t", '{"a": [1]}', '{\n"b": 1}', ["1", null], "\u202e\u0000<", "NaN"];
  assert.equal(
    jsonObject(heads, row),
    '{"v":9007199254740993,"v_2":1.50,"v_3":true,"v_4":{"a": [1]},"v_5":{ "b": 1},"v_6":[1,null],"v_7":"\u202e\\u0000<","v_8":"NaN"}',
  );
  const one = [{ name: "a", type: "int4" }];
  assert.deepEqual(JSON.parse([...jsonLines(one, [["1"], [null]], true)].join("")), [{ a: 1 }, { a: null }]);
  assert.equal([...jsonLines(one, [], true)].join(""), "[]\n");
  assert.equal([...jsonLines(one, [["1"], ["2"]], false)].join(""), '{"a":1}\n{"a":2}\n');
});

test("an INSERT statement quotes names and values", () => {
  assert.equal(
    insertStatement(["public", 'Odd "Table"'], HEADS, [
      ["1", "O'Neill \\", ["a", null]],
      [undefined, null, null],
    ]),
    `INSERT INTO "public"."Odd ""Table""" ("id", "Odd ""Name""", "tags") VALUES\n  (1, 'O''Neill \\', '{"a",NULL}'),\n  (DEFAULT, NULL, NULL);\n`,
  );
});
