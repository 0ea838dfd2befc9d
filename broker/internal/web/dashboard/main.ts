import { onSignIn, passing, Problem, token } from "./api";
import { find, h } from "./dom";
import { device } from "./device";
import { journey } from "./journey";
import { account, devices, notifications, search } from "./lists";
import { overview } from "./overview";
import type { View } from "./types";
import { sentence } from "./words";

// The address after # is the page. Each part of it is percent-encoded by itself.
const routes: [RegExp, View, string][] = [
  [/^\/$/, overview, "Overview"],
  [/^\/notifications$/, notifications, "Notifications"],
  [/^\/notifications\/([^/]+)$/, journey, "Notification"],
  [/^\/devices$/, devices, "Devices"],
  [/^\/accounts\/([^/]+)$/, account, "Account"],
  [/^\/accounts\/([^/]+)\/devices\/([^/]+)$/, device, "Device"],
  [/^\/search$/, search, "Search"],
];

let leave = new AbortController();

async function show(): Promise<void> {
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const main = find("main");
  main.replaceChildren();
  const [path = "/", query = ""] = (location.hash.slice(1) || "/").split("?", 2);
  for (const link of find("nav").querySelectorAll("a")) {
    if (link.hash.slice(1) === path) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const [pattern, view, title] of routes) {
    const match = pattern.exec(path);
    if (!match) continue;
    let parts: string[];
    try {
      parts = match.slice(1).map(decodeURIComponent);
    } catch {
      break; // a % that begins nothing
    }
    document.title = `${parts.at(-1) ?? title} – Heartline`;
    try {
      await view(main, signal, new URLSearchParams(query), ...parts);
    } catch (e) {
      if (signal.aborted) return;
      failed(main, e);
    }
    return;
  }
  main.append(h("h1", {}, "There is no such page"), h("p", {}, h("a", { href: "#/" }, "To the overview")));
}

function failed(main: HTMLElement, e: unknown): void {
  const known = e instanceof Problem;
  if (known && e.status === 401) return; // the sign-in is there
  main.append(h("div", { class: "notice bad", role: "alert" },
    h("h1", {}, known && e.status === 404 ? "Not found" : known && e.status === 403 ? "Not allowed" : "That did not work"),
    h("p", {}, passing(e) ? `${sentence(e.message)} The page tries again.` : known ? e.message : String(e)),
    h("button", { type: "button", click: () => void show() }, "Try again")));
  if (passing(e)) {
    const { signal } = leave;
    setTimeout(() => { if (!signal.aborted) void show(); }, 3000);
  }
}

function signIn(): void {
  if (document.querySelector(".sign-in")) return; // calls in parallel are refused together
  leave.abort();
  const wrong = token.get() !== "";
  token.remove();
  find("sign-out").hidden = true;
  const input = h("input", { id: "token", type: "password", required: true, autocomplete: "current-password", "aria-describedby": "token-hint" });
  const form = h("form", { class: "card sign-in" },
    h("h1", {}, "Sign in"),
    h("label", { for: "token" }, "API token of a service or an admin"), input,
    h("p", { class: "soft small", id: "token-hint" }, "This tab keeps it until it is closed. ", h("code", {}, "heartline token create"), " makes one (auth.mode file); in the mode jwt it is a JWT of that role."),
    wrong ? h("p", { class: "problem", role: "alert" }, "This token is not valid here.") : null,
    h("button", { type: "submit", class: "primary" }, "Sign in"));
  form.addEventListener("submit", (e) => {
    e.preventDefault();
    token.set(input.value.trim());
    find("sign-out").hidden = false;
    void show();
  });
  find("main").replaceChildren(form);
  input.focus();
}

find<HTMLFormElement>("search").addEventListener("submit", (e) => {
  e.preventDefault();
  const q = find<HTMLInputElement>("query").value.trim();
  if (q) location.hash = `#/search?${new URLSearchParams({ q })}`;
});
find("sign-out").addEventListener("click", () => {
  token.remove();
  signIn();
});
document.querySelector(".skip")!.addEventListener("click", (e) => {
  e.preventDefault();
  find("main").focus();
});
addEventListener("hashchange", () => void show());
onSignIn(signIn);
find("sign-out").hidden = token.get() === "";
void show();
