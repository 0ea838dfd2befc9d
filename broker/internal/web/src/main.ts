// The page: a device on the JavaScript client (clients/js), and a list of its items.
import { badName, connect as connectDevice, ownerOf as ownerName, Registrar, Shown, type Device, type How, type Item, type Pseudo, type PushToken, type Status } from "@heartline-mqtt/client";
import { askPermission, browserLock, followPage, indexedDBStore, pageState, permission, Tips, webLink, workerTimers, type News } from "@heartline-mqtt/client/browser";
import { storeName } from "./names";

declare const TIMER_WORKER: string; // the address of the timers' worker, put in by build.mjs

interface Settings {
  topic_prefix: string;
  password: boolean; // the broker asks for one
  webpush_key?: string; // the broker's public key, where it pushes to browsers
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

const store = indexedDBStore(storeName);
const timers = workerTimers(new Worker(TIMER_WORKER, { type: "module" }));
const tips = new Tips("sw.js", (n) => void onNews(n));

let settings: Settings;
let device: Device | undefined;
let owner = "";

// What the browser remembers for the next visit. connected is the device that was left
// connected: only that one connects by itself. An address alone never does: a link
// would take the device over from whoever has it.
const remembered = "heartline-terminal";

interface Remembered {
  account?: string;
  device?: string;
  connected?: string;
}

function recall(): Remembered {
  try {
    return JSON.parse(localStorage.getItem(remembered) ?? "{}");
  } catch {
    return {}; // not ours, or not allowed
  }
}

function remember(connected: boolean): void {
  const names = { account: account.value, device: deviceID.value };
  history.replaceState(null, "", "?" + new URLSearchParams(names));
  try {
    localStorage.setItem(remembered, JSON.stringify(connected ? { ...names, connected: ownerOf() } : names));
  } catch {
    // not allowed: the address has the names
  }
}

const ownerOf = () => ownerName(account.value, deviceID.value);

// fillIn reports whether the form came from the address.
function fillIn(): boolean {
  const asked = new URLSearchParams(location.search), last = recall();
  account.value = asked.get("account") ?? last.account ?? "alice";
  deviceID.value = asked.get("device") ?? last.device ?? "web-" + Math.random().toString(36).slice(2, 6);
  return asked.has("account") && asked.has("device");
}

// A page reserves its device among the pages of this browser, so that none of them
// takes it over without being asked to.
const reservation = (name: string) => "heartline-device " + name;

async function isFree(name: string): Promise<boolean> {
  return !navigator.locks || navigator.locks.request(reservation(name), { ifAvailable: true }, (l) => l !== null);
}

// reserve gets the device once no other page has it, and keeps it until the function
// that it returns is called.
function reserve(name: string): () => void {
  const end = new AbortController();
  const ended = new Promise((resolve) => end.signal.addEventListener("abort", resolve));
  navigator.locks?.request(reservation(name), { signal: end.signal }, () => ended).catch(() => undefined); // ended before it had it
  return () => end.abort();
}

let release: (() => void) | undefined;

async function connect(): Promise<void> {
  const problem = badName("account", account.value) || badName("device", deviceID.value);
  element("problem").textContent = problem;
  if (problem) return;
  remember(true);
  element("asks").hidden = true;
  owner = ownerOf();
  release?.();
  release = reserve(owner);
  const name = owner;
  device = connectDevice({
    url: new URL("/mqtt", location.href.replace(/^http/, "ws")).href,
    prefix: settings.topic_prefix,
    account: account.value,
    device: deviceID.value,
    password: password.value,
    app: pageState(),
    store,
    lock: browserLock,
    timers,
    keepMessages: true,
    show,
    // changed shows it.
    message: ({ id }) => announce(`Message of ${document.querySelector(`#${CSS.escape("item-" + id)} h3`)?.textContent ?? id}`),
    dismiss: ({ id }) => tips.close(name, id),
    changed,
    status,
  });
  await showList();
}

function disconnect(): void {
  const d = device;
  device = undefined;
  d?.close();
}

// register gives the server a push registration, as Registrar asks for it.
async function register(t: PushToken): Promise<void> {
  if (!device) throw new Error("connect first");
  if (device.status.kind !== "up") throw new Error("not connected");
  await device.register(t);
}

let countdown: number | undefined;

function status(s: Status): void {
  if (countdown !== undefined) timers.stop(countdown);
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
      countdown = timers.every(1000, say);
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
    case "signed out": text.textContent = "Signed out"; break;
    case "closed": text.textContent = "Offline"; break;
  }
  if (s.kind !== "down") pill.removeAttribute("aria-live");
  const ended = s.kind === "refused" || s.kind === "elsewhere" || s.kind === "signed out" || s.kind === "closed";
  if (ended) {
    device = undefined;
    release?.();
    release = undefined;
    // Another browser has it now: this one does not take it back at the next visit.
    if (s.kind === "elsewhere") void isFree(owner).then((free) => { if (free) remember(false); });
  } else element("problem").textContent = "";
  for (const input of [account, deviceID, password]) input.disabled = !ended;
  const toggle = element<HTMLButtonElement>("toggle");
  toggle.textContent = ended ? "Connect" : "Disconnect";
  toggle.toggleAttribute("data-connected", !ended);
  element<HTMLButtonElement>("sign-out").hidden = s.kind !== "up";
  element("device").toggleAttribute("data-connected", !ended);
  element("device-heading").textContent = ended ? "Device" : `${deviceID.value} of ${account.value}`;
  if (s.kind === "up") void renewPush();
  void showPush();
}

const reason = (err: unknown) => (err instanceof Error ? err.message : String(err)).replace(/\.$/, "");

async function signOut(): Promise<void> {
  try {
    await device?.signOut();
  } catch (err) {
    element("problem").textContent = `Not signed out: ${reason(err)}.`;
    return;
  }
  // Nothing of this user stays on the screen or in the browser.
  if ((await store.registered())?.owner === owner) await (await registrar())?.disable(() => Promise.resolve());
  await tips.close(owner);
  remember(false);
  await showList();
  await showPush();
}

element("sign-out").addEventListener("click", () => void signOut());

// show shows a notification; the client calls it once for each ID.
async function show(p: Pseudo): Promise<How> {
  if (pageState() === "background") return await tips.show(owner, p) ? "tip" : "blocked";
  announce(`Notification: ${[p.title, p.body].filter(Boolean).join(". ")}`);
  return "page";
}

function changed(item: Item): void {
  if (item.owner === owner && (item.shown || item.message)) render(item);
}

// open records that the user has opened a notification: the account's other devices
// take it off their screens.
async function open(id: string): Promise<void> {
  await (device ? device.read(id) : new Shown(store, browserLock).read(owner, id).then((item) => item && changed(item)));
  await tips.close(owner, id);
}

// onNews handles a message of the service worker.
async function onNews(n: News): Promise<void> {
  if (n.owner !== owner) return;
  switch (n.kind) {
    case "subscribed": await renewPush(); break;
    case "opened": await device?.pay(); // falls through
    case "shown": {
      const item = await store.get(owner, n.id);
      if (item) render(item);
    }
  }
}

const words: Record<How, string> = {
  tip: "tip shown",
  push: "push shown",
  page: "in the page",
  blocked: "tips not allowed",
  replaced: "replaced by a newer one",
};

// longMessage is how much of a message is laid out before somebody asks for all.
const longMessage = 4000;

function render(item: Item): void {
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
  chip.textContent = item.shown ? words[item.shown] : "";
  chip.dataset["shown"] = item.shown ?? "";
  part("article").toggleAttribute("data-dismissed", item.dismissed === true);
  const fate = part(".fate");
  fate.hidden = !item.read && !item.dismissed;
  fate.textContent = item.read ? "read" : "taken back";
  const mark = part<HTMLButtonElement>(".mark");
  mark.hidden = item.read === true || item.dismissed === true || !item.pseudo;
  mark.onclick = () => void open(item.id);
  const link = part<HTMLAnchorElement>(".link");
  const to = webLink(item.pseudo?.link);
  link.hidden = to === "";
  if (to) link.href = to;
  link.onclick = () => void open(item.id);
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
  }[permission()];
  element("allow").hidden = permission() !== "default";
}

function showApp(): void {
  element("app").textContent = pageState();
}

followPage(() => device, showApp);
// A page that is kept for the way back is no device meanwhile.
let wasConnected = false;
addEventListener("pagehide", () => { wasConnected = device !== undefined; disconnect(); });
addEventListener("pageshow", (e) => { if (e.persisted && wasConnected) void connect(); });

element("connect").addEventListener("submit", (e) => {
  e.preventDefault();
  if (device) {
    remember(false);
    disconnect();
  } else void connect();
});
element("allow").addEventListener("click", () => void askPermission().then(showPermission));
element("push").addEventListener("submit", (e) => { e.preventDefault(); void registerToken(element<HTMLInputElement>("token").value.toLowerCase()); });
element("forget").addEventListener("click", () => void registerToken(null));

// registrar is undefined where the browser takes no pushes.
async function registrar(): Promise<Registrar | undefined> {
  const manager = await tips.pushManager();
  return manager && new Registrar(manager, store);
}

// renewPush registers the browser's subscription again, if this device takes pushes.
async function renewPush(): Promise<void> {
  const r = await registrar();
  if (!r || !settings.webpush_key) return;
  try {
    await r.renew(owner, settings.webpush_key, register);
  } catch (err) {
    if (device) element("push-problem").textContent = `Not registered for pushes: ${reason(err)}.`;
  }
  await showPush();
}

// showPush says whether pushes reach this browser, and offers what can be done.
async function showPush(): Promise<void> {
  const r = await registrar();
  const on = r !== undefined && (await store.registered())?.owner === ownerOf();
  const ready = r !== undefined && settings.webpush_key !== undefined && permission() !== "denied";
  element("pushes").textContent =
    on ? "on, also when this page is closed"
    : !settings.webpush_key ? "not offered by this broker"
    : !isSecureContext ? "only over https, or on localhost"
    : r ? "off"
    // iOS gives pushes to pages of the Home Screen only.
    : "standalone" in navigator && !navigator.standalone ? "add this page to the Home Screen first" : "not in this browser";
  const button = element<HTMLButtonElement>("web-push");
  button.hidden = !on && !(ready && device !== undefined);
  button.textContent = on ? "Stop pushes" : "Push to this browser";
  button.toggleAttribute("data-on", on);
}

async function togglePush(): Promise<void> {
  const says = element("push-problem");
  says.textContent = "";
  try {
    if (!element("web-push").hasAttribute("data-on")) {
      await askPermission(); // right after the click, or a browser refuses
      showPermission();
      if (permission() !== "granted") throw new Error("this browser does not allow notifications of this page");
      const who = { owner, account: account.value, device: deviceID.value, key: settings.webpush_key ?? "" };
      await (await registrar())?.enable(who, register);
    } else {
      await (await registrar())?.disable(register);
    }
  } catch (err) {
    says.textContent = `Not changed: ${reason(err)}.`;
  }
  await showPush();
}

element("web-push").addEventListener("click", () => {
  const button = element<HTMLButtonElement>("web-push");
  button.disabled = true;
  void togglePush().finally(() => { button.disabled = false; });
});

async function registerToken(token: string | null): Promise<void> {
  const says = element("push-status");
  if (token === "") {
    says.textContent = "Enter a token first.";
    return;
  }
  try {
    await register({ apns: token === null ? null : { token } });
    says.textContent = token === null ? "Removed." : "Registered.";
  } catch (err) {
    says.textContent = `Refused: ${reason(err)}`;
  }
}

async function start(): Promise<void> {
  showPermission();
  showApp();
  // The browser's own settings change it, too.
  void navigator.permissions?.query({ name: "notifications" }).then((p) => { p.onchange = showPermission; }, () => undefined);
  const asked = fillIn();
  owner = ownerOf();
  const answer = await fetch("settings.json");
  if (!answer.ok) throw new Error(`settings: ${answer.status} ${answer.statusText}`);
  settings = await answer.json();
  element("password-field").hidden = !settings.password;
  element<HTMLButtonElement>("toggle").disabled = false;
  // Connected when it was left, and connected nowhere else in this browser.
  const left = recall().connected === owner && !settings.password;
  if (left && await isFree(owner)) {
    await connect();
    return;
  }
  element("asks").hidden = !asked;
  await showList();
  await showPush();
}

start().catch((err) => { element("problem").textContent = `The page cannot start: ${err}`; });
