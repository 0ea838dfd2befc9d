// What the page and the service worker say to each other.

// Data is in each tip.
export interface Data {
  owner: string;
  id: string;
  page: string; // the terminal of its device
  link: string; // opened instead, where it is a web link
}

export type News =
  | { kind: "shown"; owner: string; id: string } // a push was shown, or replaced
  | { kind: "opened"; owner: string; id: string } // its user has opened a tip
  | { kind: "subscribed"; owner: string }; // the subscription is another one
