// The JSON on the wire: docs/contract.md §3 and docs/clients.md.

/** A notification as the channel carries it. Fields that were not given are absent. */
export interface Pseudo {
  id: string;
  account: string;
  title?: string;
  subtitle?: string;
  body?: string;
  /** The number for the app's icon. */
  badge?: number;
  sound?: string;
  category?: string;
  /** RFC 3339, with milliseconds. */
  accepted_at: string;
  /** It was published before. Another copy may have arrived, or not. */
  redelivery: boolean;
  /** A notification server has accepted a push, which may have been shown. */
  pushed: boolean;
  /** A message with the full data follows once this is acknowledged and the app is in the foreground. */
  has_message: boolean;
  /** The ack that the sender waits for. */
  ack: "received" | "displayed";
  /** A newer tip replaces an older one with the same tag. */
  tag?: string;
  thread?: string;
  link?: string;
  image?: string;
  level?: "passive" | "active" | "time-sensitive" | "critical";
  localized?: Localized;
  extra?: Record<string, unknown>;
}

/** Texts that the app has, by their keys. */
export interface Localized {
  title_key?: string;
  title_args?: string[];
  subtitle_key?: string;
  subtitle_args?: string[];
  body_key?: string;
  body_args?: string[];
}

/** Take a notification off the screen. */
export interface Dismissal {
  id: string;
  /** The tag of its tip, in a push. */
  tag?: string;
  /** The number for the app's icon, where the server counts. */
  badge?: number;
}

/** The full content of a notification. */
export interface Message {
  id: string;
  account: string;
  data: unknown;
  accepted_at: string;
}

export type AppState = "foreground" | "background";

/**
 * "displayed": a person could see it. "read": its user has opened it; the account's
 * other devices then take it off their screens.
 */
export type AckStatus = "received" | "displayed" | "read";

/**
 * One registration with one notification server; null removes the server's
 * registrations. webpush is PushSubscription.toJSON() unchanged.
 */
export type PushToken =
  | { fcm: { token: string; project?: string; kind?: string } | { fid: string; project?: string; kind?: string } | null }
  | { apns: { token: string; topic?: string; environment?: "production" | "sandbox"; kind?: string } | null }
  | { webpush: unknown };

/** The topics of a device. */
export interface Topics {
  notifications: string;
  messages: string;
  dismissals: string;
  acks: string;
  state: string;
  pushToken: string;
  signOut: string;
}

export function topics(prefix: string, device: string): Topics {
  const own = `${prefix}/devices/${device}/`;
  return {
    notifications: own + "notifications",
    messages: own + "messages",
    dismissals: own + "dismissals",
    acks: own + "acks",
    state: own + "state",
    pushToken: own + "push-token",
    signOut: own + "sign-out",
  };
}
