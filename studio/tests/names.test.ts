import assert from "node:assert/strict";
import { test } from "node:test";
import { boostOf, type NamedTable, sqlName, statementAround, tablesIn } from "../src/pages/sql/names.ts";

const table = (schema: string, name: string): NamedTable => ({ schema, name, columns: [["id", "integer"]] });
const TABLES = [
  table("public", "users"),
  table("public", "gyms"),
  table("app", "users"),
  table("public", 'Odd "Name"'),
];
const found = (statement: string): string[] =>
  tablesIn(statement, TABLES).map(({ schema, name }) => `${schema}.${name}`);

test("the tables of a statement are found after FROM, JOIN, UPDATE, INTO and commas", () => {
  assert.deepEqual(found("SELECT  FROM users u JOIN gyms ON true"), ["public.users", "public.gyms"]);
  assert.deepEqual(found("SELECT a, b FROM gyms g, USERS"), ["public.gyms", "public.users"]);
  assert.deepEqual(found("UPDATE app.users SET "), ["app.users"]);
  assert.deepEqual(found('INSERT INTO "Odd ""Name""" ('), ['public.Odd "Name"']);
  assert.deepEqual(found("SELECT 'FROM users' -- FROM gyms\n /* FROM gyms */"), []);
  assert.deepEqual(found("DELETE FROM ONLY gyms"), ["public.gyms"]);
});

test("the statement around the cursor ends at semicolons", () => {
  assert.equal(statementAround("SELECT 1; SELECT 2; SELECT 3", 15), " SELECT 2");
  assert.equal(statementAround("SELECT 1", 8), "SELECT 1");
});

test("common keywords come before rare ones, and SELECT before SELF", () => {
  assert.ok(boostOf("select") > boostOf("SELF"));
  assert.ok(boostOf("FROM") > boostOf("FALSE"));
});

test("a name has quotes only where it needs them", () => {
  assert.deepEqual(["users", "User", 'a"b', "ação"].map(sqlName), ["users", '"User"', '"a""b"', '"ação"']);
});
