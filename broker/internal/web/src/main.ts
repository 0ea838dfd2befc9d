// The page. Read wire.ts, device.ts (the connection) and store.ts (what was shown)
// for what it rests on.
import { Device, type Status } from "./device";
import * as store from "./store";
import * as tips from "./tips";
import { every, stop } from "./timers";
import type { AppState, Message, Pseudo } from "./wire";

interface Settings {
  topic_prefix: string;
  password: boolean; // whether the broker asks for one
}

function element<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as T;
}

const account = element<HTMLInputElement>("account");
const deviceID = element<HTMLInputElement>("device-id");
const password = element<HTMLInputElement>("password");
const items = element<HTMLOListElement>("items");

let settings: Settings;
let device: Device | undefined;
let owner = "";

// appState: the page that is looked at is an app in the foreground.
function appState(): AppState {
  return document.visibilityState === "visible" ? "foreground" : "background";
}

// Remembered for the next visit; an address with both names in it connects at once.
const remembered = "heartline-terminal";

function fillIn(): boolean {
  const asked = new URLSearchParams(location.search);
  let last: Record<string, string> = {};
  try {
    last = JSON.parse(localStorage.getItem(remembered) ?? "{}");
  } catch {
    // not ours, or not allowed: begin anew
  }
  account.value = asked.get("account") ?? last["account"] ?? "alice";
  deviceID.value = asked.get("device") ?? last["device"] ?? "web-" + Math.random().toString(36).slice(2, 6);
  return asked.has("account") && asked.has("device");
}

function remember(): void {
  const names = { account: account.value, device: deviceID.value };
  history.replaceState(null, "", "?" + new URLSearchParams(names));
  try {
    localStorage.setItem(remembered, JSON.stringify(names));
  } catch {
    // not allowed: the address has them
  }
}

// badName says what is wrong with a name; the server would take the client, and
// never as a device.
function badName(what: string, name: string): string {
  if (new TextEncoder().encode(name).length > 128) return `The ${what} is longer than 128 bytes.`;
  return /[/+#\u0000-\u001f\u007f-\u009f]/.test(name) ? `The ${what} may not hold /, + or #.` : "";
}

async function connect(): Promise<void> {
  const problem = badName("account", account.value) || badName("device", deviceID.value);
  element("problem").textContent = problem;
  if (problem) return;
  remember();
  owner = `${account.value}/${deviceID.value}`;
  device = new Device({
    url: new URL("/mqtt", location.href.replace(/^http/, "ws")).href,
    prefix: settings.topic_prefix,
    account: account.value,
    device: deviceID.value,
    password: password.value,
    show: (p) => show(p),
    dismiss: (d) => tips.dismiss(d.id),
    message: (m) => message(m),
    status,
  }, appState());
  await showList();
}

function disconnect(): void {
  const d = device;
  device = undefined;
  d?.close();
}

let countdown: number | undefined;

function status(s: Status): void {
  if (countdown !== undefined) stop(countdown);
  countdown = undefined;
  const pill = element("channel"), text = element("channel-text");
  pill.dataset["kind"] = s.kind;
  switch (s.kind) {
    case "connecting": text.textContent = "Connecting …"; break;
    case "up": text.textContent = "Up"; break;
    case "down": {
      const until = Date.now() + s.retryIn;
      const say = () => { text.textContent = `Connection lost, again in ${Math.max(1, Math.ceil((until - Date.now()) / 1000))} s`; };
      say();
      pill.setAttribute("aria-live", "off"); // not each second
      countdown = every(1000, say);
      break;
    }
    case "refused":
      text.textContent = "Refused";
      element("problem").textContent = `The broker has refused the device: ${s.why}.`;
      break;
    case "elsewhere":
      text.textContent = "In use elsewhere";
      element("problem").textContent = "This device has connected from another page or program. Connect to take it back, or choose another device.";
      break;
    case "closed": text.textContent = "Offline"; break;
  }
  if (s.kind !== "down") pill.removeAttribute("aria-live");
  const ended = s.kind === "refused" || s.kind === "elsewhere" || s.kind === "closed";
  if (ended) device = undefined;
  else element("problem").textContent = "";
  for (const input of [account, deviceID, password]) input.disabled = !ended;
  const toggle = element<HTMLButtonElement>("toggle");
  toggle.textContent = ended ? "Connect" : "Disconnect";
  toggle.toggleAttribute("data-connected", !ended);
  element<HTMLButtonElement>("sign-out").hidden = s.kind !== "up";
  element("device").toggleAttribute("data-connected", !ended);
  element("device-heading").textContent = ended ? "Device" : `${deviceID.value} of ${account.value}`;
  if (s.kind === "up") void payOwed();
}

element("sign-out").addEventListener("click", () => {
  device?.signOut().catch((err) => { element("problem").textContent = `Not signed out: ${err instanceof Error ? err.message : String(err)}.`; });
});

// show shows a notification once, whichever path brought it.
async function show(p: Pseudo): Promise<{ displayed: boolean }> {
  const item: store.Item = await store.get(owner, p.id) ?? { owner, id: p.id, arrived: Date.now() };
  if (!item.pseudo) {
    item.pseudo = p;
    item.shown = "page";
    if (appState() === "background") {
      item.shown = await tips.show(p) ? "tip" : "blocked"; // whatever p.pushed says: a push may not have been shown
    }
    // Nobody has seen what is only in the list of a page in the background.
    item.owed = item.shown === "blocked" && p.ack === "displayed";
    // Noted after it was shown: a crash in between shows it twice, under one tag.
    await store.put(item);
    render(item);
    if (item.shown === "page") announce(`Notification: ${[p.title, p.body].filter(Boolean).join(". ")}`);
  }
  return { displayed: !item.owed };
}

async function message(m: Message): Promise<void> {
  const item: store.Item = await store.get(owner, m.id) ?? { owner, id: m.id, arrived: Date.now() };
  if (item.message) return;
  item.message = m;
  item.messageArrived = Date.now();
  await store.put(item);
  render(item);
  announce(`Message of ${item.pseudo?.title ?? m.id}`);
}

// payOwed says "displayed" of what is looked at only now.
async function payOwed(): Promise<void> {
  if (appState() !== "foreground" || !device) return;
  for (const item of await store.list(owner)) {
    if (!item.owed) continue;
    try {
      await device.displayed(item.id);
    } catch (err) {
      console.debug("displayed is not said yet:", err);
      return; // at the next opportunity
    }
    await store.put({ ...item, owed: false });
  }
}

const shown: Record<store.Shown, string> = {
  tip: "tip shown",
  page: "in the page",
  blocked: "tips not allowed",
};

// longMessage is how much of a message is laid out before somebody asks for all.
const longMessage = 4000;

function render(item: store.Item): void {
  const id = "item-" + item.id;
  let li = document.getElementById(id);
  if (!li) {
    const fresh = element<HTMLTemplateElement>("item").content.firstElementChild?.cloneNode(true);
    if (!(fresh instanceof HTMLElement)) throw new Error("the template is empty");
    li = fresh;
    li.id = id;
    items.prepend(li); // newest first
  }
  const part = <T extends HTMLElement>(selector: string): T => {
    const found = li.querySelector<T>(selector);
    if (!found) throw new Error(`an item has no ${selector}`);
    return found;
  };
  const accepted = item.pseudo?.accepted_at ?? item.message?.accepted_at ?? "";
  part("h3").textContent = item.pseudo ? item.pseudo.title || "(without a title)" : "(not announced)";
  part("h3").id = id + "-title";
  part("article").setAttribute("aria-labelledby", id + "-title");
  part("time").setAttribute("datetime", accepted);
  part("time").textContent = timeOf(new Date(accepted));
  part(".body").textContent = item.pseudo?.body ?? "";
  const chip = part(".chip");
  chip.hidden = !item.shown;
  chip.textContent = item.shown ? shown[item.shown] : "";
  chip.dataset["shown"] = item.shown ?? "";
  part(".meta code").textContent = item.id;
  part(".waiting").hidden = !item.pseudo?.has_message || item.message !== undefined;
  const box = part(".message"), pre = part("pre"), more = part<HTMLButtonElement>(".more");
  box.hidden = !item.message;
  if (item.message) {
    const text = JSON.stringify(item.message.data, null, 2);
    const long = text.length > longMessage;
    pre.textContent = long ? text.slice(0, longMessage) + " …" : text;
    pre.setAttribute("aria-label", "Message");
    more.hidden = !long;
    more.textContent = `Show all ${text.length.toLocaleString()} characters`;
    more.onclick = () => { pre.textContent = text; more.hidden = true; pre.focus(); };
  }
  element("empty").hidden = true;
}

function timeOf(d: Date): string {
  const today = d.toDateString() === new Date().toDateString();
  return d.toLocaleString(undefined, today ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" });
}

async function showList(): Promise<void> {
  items.replaceChildren();
  element("empty").hidden = false;
  const server = location.origin === "http://127.0.0.1:8080" ? "" : ` --server ${location.origin}`;
  element("command").textContent = `heartline send${server} --account ${account.value} --title Hello --body "It works" --data '{"order": 7}'`;
  const name = owner;
  const known = await store.list(name);
  if (name === owner) known.forEach(render);
}

function announce(text: string): void {
  element("announcer").textContent = text;
}

function showPermission(): void {
  element("tips").textContent = {
    granted: "allowed", denied: "blocked in this browser", default: "not allowed yet", unavailable: "only over https, or on localhost",
  }[tips.permission()];
  element("allow").hidden = tips.permission() !== "default";
}

function showApp(): void {
  element("app").textContent = appState();
}

document.addEventListener("visibilitychange", () => {
  showApp();
  device?.setApp(appState());
  if (appState() === "foreground") {
    device?.retryNow();
    void payOwed();
  }
});
addEventListener("online", () => device?.retryNow());
// A page that is kept for the way back is no device meanwhile.
let wasConnected = false;
addEventListener("pagehide", () => { wasConnected = device !== undefined; disconnect(); });
addEventListener("pageshow", (e) => { if (e.persisted && wasConnected) void connect(); });

element("connect").addEventListener("submit", (e) => {
  e.preventDefault();
  if (device) disconnect();
  else void connect();
});
element("allow").addEventListener("click", () => void tips.ask().then(showPermission));
element("push").addEventListener("submit", (e) => { e.preventDefault(); void register(element<HTMLInputElement>("token").value.toLowerCase()); });
element("forget").addEventListener("click", () => void register(null));

async function register(token: string | null): Promise<void> {
  const says = element("push-status");
  if (token === "") {
    says.textContent = "Enter a token first.";
    return;
  }
  if (!device) {
    says.textContent = "Connect first.";
    return;
  }
  try {
    await device.registerPushToken(token === null ? null : { token });
    says.textContent = token === null ? "Removed." : "Registered.";
  } catch (err) {
    says.textContent = `Refused: ${err instanceof Error ? err.message : String(err)}`;
  }
}

async function start(): Promise<void> {
  tips.prepare();
  showPermission();
  showApp();
  // The browser's own settings change it, too.
  void navigator.permissions?.query({ name: "notifications" }).then((p) => { p.onchange = showPermission; }, () => undefined);
  const at = fillIn();
  owner = `${account.value}/${deviceID.value}`;
  const answer = await fetch("settings.json");
  if (!answer.ok) throw new Error(`settings: ${answer.status} ${answer.statusText}`);
  settings = await answer.json();
  element("password-field").hidden = !settings.password;
  if (at && !settings.password) await connect();
  else await showList();
}

start().catch((err) => { element("problem").textContent = `The page cannot start: ${err}`; });
