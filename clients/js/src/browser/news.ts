// The messages from the service worker to its pages, and the data of each tip.

/** The data of each tip. */
export interface TipData {
  owner: string;
  id: string;
  page: string; // the page of its device
  loaded?: string; // the address that this page was loaded from, where a page has shown the tip
  link: string; // opened instead, where it is a web link
}

export type News =
  /** A push was shown, or replaced. */
  | { kind: "shown"; owner: string; id: string }
  /** Its user has opened a tip. */
  | { kind: "opened"; owner: string; id: string }
  /** The browser has made another subscription. */
  | { kind: "subscribed"; owner: string };
