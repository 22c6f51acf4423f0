import assert from "node:assert/strict";
import { test } from "node:test";
import { parseBlock, parseList } from "../src/block.ts";

test("tabs and line ends separate cells, and the last line end adds no row", () => {
  assert.deepEqual(parseBlock("a\tb\r\nc\td\r\n"), [
    ["a", "b"],
    ["c", "d"],
  ]);
  assert.deepEqual(parseBlock("a\n\n"), [["a"], [""]]);
  assert.deepEqual(parseBlock("a\rb"), [["a"], ["b"]]);
  assert.deepEqual(parseBlock("\t\n\tx"), [
    ["", ""],
    ["", "x"],
  ]);
  assert.deepEqual(parseBlock(""), [[""]]);
});

test("a quoted cell holds tabs, line ends and quotes", () => {
  assert.deepEqual(parseBlock('"one\r\ntwo\t""three"""\tx\n""'), [['one\r\ntwo\t"three"', "x"], [""]]);
});

test("quotes that do not enclose a cell belong to its text", () => {
  assert.deepEqual(parseBlock('"so" he said\t5"\n"open\tx'), [
    ['"so" he said', '5"'],
    ['"open', "x"],
  ]);
});

test("a megabyte of open quotes is read at once", () => {
  assert.equal(parseBlock('"a\t'.repeat(300_000)).length, 1);
});

test("lists are read from PostgreSQL's form and from JSON", () => {
  assert.deepEqual(parseList('{a, "b,\\"c\\\\" ,NULL,"NULL",""}'), ["a", 'b,"c\\', null, "NULL", ""]);
  assert.deepEqual(parseList(" {} "), []);
  assert.deepEqual(parseList('["a\\u00e9", null, true, 9007199254740993]'), ["aé", null, "true", "9007199254740993"]);
  assert.deepEqual(parseList("[]"), []);
});

test("what is no list of values is refused", () => {
  for (const text of ["a,b", "{a", "{a,}", "{,a}", "{{a},{b}}", '{"a}', '[["a"]]', "[1", '{"a"b}', "", "{a,,b}"])
    assert.equal(parseList(text), null, text);
});
