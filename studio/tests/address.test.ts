import assert from "node:assert/strict";
import { test } from "node:test";
import { RowsAddress } from "../src/pages/rows/address.ts";

const address = (query = ""): RowsAddress => new RowsAddress("users", new URLSearchParams(query));

test("the sort columns are read in order of priority", () => {
  assert.deepEqual(address("sort=belt,-id").sort, [
    { column: "belt", descending: false },
    { column: "id", descending: true },
  ]);
  assert.deepEqual(address("").sort, []);
  assert.deepEqual(address("sort=").sort, []);
});

test("a sort order survives a round trip through the address", () => {
  const sort = [
    { column: "first_name", descending: true },
    { column: "id", descending: false },
  ];
  assert.equal(address("").sorted(sort), "/t/users?sort=-first_name%2Cid");
  assert.deepEqual(address("sort=-first_name%2Cid").sort, sort);
});

test("an empty sort order leaves the address", () => {
  assert.equal(address("sort=id").sorted([]), "/t/users");
});

test("a new sort order or filter starts at the first page", () => {
  for (const place of ["after=5", "before=5", "last=1"]) {
    assert.equal(address(place).sorted([{ column: "id", descending: false }]), "/t/users?sort=id");
    assert.equal(address(place).filtered({ all: [] }), "/t/users");
  }
});

test("paging keeps the filter and the sort order, and replaces the previous page", () => {
  assert.equal(address("sort=id&after=5").with({ before: "9" }), "/t/users?sort=id&before=9");
  assert.equal(address("sort=id&before=9").with({ last: "1" }), "/t/users?sort=id&last=1");
  assert.equal(address("sort=id&last=1").with({}), "/t/users?sort=id");
});

test("a condition narrows the current filter", () => {
  const filter = encodeURIComponent('{"all":[{"column":"role","op":"is","value":"STUDENT"}]}');
  const narrowed = new URL(address(`filter=${filter}`).narrowed({ column: "email", op: "null" }), "http://studio");
  assert.deepEqual(JSON.parse(narrowed.searchParams.get("filter") ?? ""), {
    all: [
      { column: "role", op: "is", value: "STUDENT" },
      { column: "email", op: "null" },
    ],
  });
});

test("computing an address does not change the current one", () => {
  const present = address("sort=id&after=5");
  present.with({ sort: null });
  assert.equal(present.parameters.toString(), "sort=id&after=5");
});
