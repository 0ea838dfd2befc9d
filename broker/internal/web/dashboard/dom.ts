// Elements are made here, and text reaches the page as text nodes only: a title, a
// device ID or a detail can hold anything.

export type Child = Node | string | number | null | undefined | false;
type Props = Record<string, string | number | boolean | null | undefined | ((e: Event) => void)>;

function fill(el: Element, props: Props, children: Child[]): void {
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") el.addEventListener(name, value);
    else if (value === true) el.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) el.setAttribute(name, String(value));
  }
  el.append(...children.filter((c) => c !== null && c !== undefined && c !== false).map((c) => (c instanceof Node ? c : String(c))));
}

/** h makes an HTML element. A property that is a function is an event's listener. */
export function h<K extends keyof HTMLElementTagNameMap>(tag: K, props: Props = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const el = document.createElement(tag);
  fill(el, props, children);
  return el;
}

/** s makes an SVG element. */
export function s(tag: string, props: Props = {}, ...children: Child[]): SVGElement {
  const el = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(el, props, children);
  return el;
}

/**
 * redraw gives an element new content, and changes only what differs: the focus, the selection and
 * the scroll positions stay. What stays keeps its listeners, so those of each drawing must do the same.
 */
export function redraw(box: Element, ...content: Child[]): void {
  merge(box, h("div", {}, ...content));
}

function merge(into: Element, from: Element): void {
  const before = [...into.childNodes], after = [...from.childNodes];
  after.forEach((node, i) => {
    const old = before[i];
    if (!old) into.append(node);
    else if (old.nodeName !== node.nodeName) old.replaceWith(node);
    else if (old instanceof Element) {
      copyAttributes(old, node as Element);
      merge(old, node as Element);
    } else if (old.nodeValue !== node.nodeValue) old.nodeValue = node.nodeValue;
  });
  for (const old of before.slice(after.length)) old.remove();
}

function copyAttributes(into: Element, from: Element): void {
  for (const { name } of [...into.attributes]) if (!from.hasAttribute(name)) into.removeAttribute(name);
  for (const { name, value } of from.attributes) {
    if (into.getAttribute(name) === value) continue;
    if (name === "style") (into as HTMLElement).style.cssText = value; // the policy forbids to set the attribute
    else into.setAttribute(name, value);
  }
}

/** find returns the element with an ID of the page. */
export function find<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

/** announce tells a screen reader. */
export function announce(text: string): void {
  find("announcer").textContent = text;
}

/** pill is a state in a word. */
export function pill(kind: "good" | "wait" | "bad" | "none", text: string): HTMLElement {
  return h("span", { class: `pill ${kind}` }, text);
}

/** facts is a list of names and values. */
export function facts(rows: [string, Child][]): HTMLElement {
  return h("dl", { class: "facts" }, ...rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** table has a caption that only screen readers show. On a narrow screen each row becomes a card. */
export function table(caption: string, columns: string[], rows: Child[][]): HTMLElement {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h("table", {},
      h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, ...columns.map((c) => h("th", { scope: "col" }, c)))),
      h("tbody", {}, ...rows.map((row) => h("tr", {}, ...row.map((cell, i) => h("td", { "data-label": columns[i] ?? "" }, cell)))))));
}

/** card is a part of a page with a heading. */
export function card(title: string, ...children: Child[]): HTMLElement {
  return h("section", { class: "card" }, h("h2", {}, title), ...children);
}

/** confirmed asks before something that cannot be undone. */
export function confirmed(question: string, act: string): Promise<boolean> {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": "question" },
      h("form", { method: "dialog" },
        h("p", { id: "question" }, question),
        h("div", { class: "row" },
          h("button", { value: "no", autofocus: true }, "Keep it"),
          h("button", { value: "yes", class: "danger" }, act))));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
