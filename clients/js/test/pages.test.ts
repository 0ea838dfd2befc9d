import assert from "node:assert/strict";
import { test } from "node:test";
import { findPage } from "../src/browser/pages.js";

test("a tip finds the page of its device, and no other page of the origin", () => {
  const at = "https://example.com";
  const found = (page: string, loaded: string | undefined, ...open: string[]) =>
    findPage(open.map((path) => ({ url: at + path })), { page: at + page, ...(loaded === undefined ? {} : { loaded: at + loaded }) })?.url.slice(at.length);
  const anna = "/terminal/?account=anna&device=phone", ben = "/terminal/?account=ben&device=phone";
  const elsewhere = ["/dashboard/", "/", "/terminal/licences.txt", "/terminals/"];
  assert.equal(found(anna, undefined), undefined);
  assert.equal(found(anna, undefined, ...elsewhere), undefined);
  assert.equal(found(anna, undefined, ...elsewhere, anna + "2", ben), undefined);
  assert.equal(found(anna, undefined, ben, anna), anna);
  assert.equal(found(anna, undefined, anna + "#top"), anna + "#top");
  assert.equal(found(anna + "#top", undefined, anna), anna);
  assert.equal(found(anna, undefined, "/terminal/", anna), anna);
  // Loaded without the names, or with more.
  assert.equal(found(anna, undefined, ben, "/terminal/"), "/terminal/");
  assert.equal(found(anna, undefined, ben, "/terminal/?device=phone&lang=de"), "/terminal/?device=phone&lang=de");
  // An app with paths of its own, below the worker's scope, and one that has moved since.
  assert.equal(found("/app/", undefined, "/dashboard/", "/app/inbox/5?a=b"), "/app/inbox/5?a=b");
  assert.equal(found("/app/inbox/5", "/app/start", "/dashboard/", "/app/start"), "/app/start");
  assert.equal(found("/app/inbox/5", "/app/start", "/app/other"), undefined);
  assert.equal(findPage([{ url: "https://example.org/app/" }], { page: at + "/app/" }), undefined);
});
