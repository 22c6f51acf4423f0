import assert from "node:assert/strict";
import { test } from "node:test";
import { RowsAddress } from "../src/pages/rows/address.ts";

const address = (query = ""): RowsAddress => new RowsAddress("users", new URLSearchParams(query));

test("the columns to sort by are read in their order", () => {
  assert.deepEqual(address("sort=belt,-id").sort, [
    { column: "belt", descending: false },
    { column: "id", descending: true },
  ]);
  assert.deepEqual(address("").sort, []);
  assert.deepEqual(address("sort=").sort, []);
});

test("an order that is written reads as the same order", () => {
  const sort = [
    { column: "first_name", descending: true },
    { column: "id", descending: false },
  ];
  assert.equal(address("").sorted(sort), "/t/users?sort=-first_name%2Cid");
  assert.deepEqual(address("sort=-first_name%2Cid").sort, sort);
});

test("without an order the address has none", () => {
  assert.equal(address("sort=id").sorted([]), "/t/users");
});

test("another order or filter begins at the first page", () => {
  for (const place of ["after=5", "before=5", "last=1"]) {
    assert.equal(address(place).sorted([{ column: "id", descending: false }]), "/t/users?sort=id");
    assert.equal(address(place).filtered({ all: [] }), "/t/users");
  }
});

test("a page keeps the filter and the order, and takes the place of another page", () => {
  assert.equal(address("sort=id&after=5").with({ before: "9" }), "/t/users?sort=id&before=9");
  assert.equal(address("sort=id&before=9").with({ last: "1" }), "/t/users?sort=id&last=1");
  assert.equal(address("sort=id&last=1").with({}), "/t/users?sort=id");
});

test("a condition narrows the filter that is there", () => {
  const filter = encodeURIComponent('{"all":[{"column":"role","op":"is","value":"STUDENT"}]}');
  const narrowed = new URL(address(`filter=${filter}`).narrowed({ column: "email", op: "null" }), "http://studio");
  assert.deepEqual(JSON.parse(narrowed.searchParams.get("filter") ?? ""), {
    all: [
      { column: "role", op: "is", value: "STUDENT" },
      { column: "email", op: "null" },
    ],
  });
});

test("a change leaves the present address as it is", () => {
  const present = address("sort=id&after=5");
  present.with({ sort: null });
  assert.equal(present.parameters.toString(), "sort=id&after=5");
});
