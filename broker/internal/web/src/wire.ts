// What goes over the wire: contract §3, docs/clients.md.

export interface Pseudo {
  id: string;
  account: string;
  title?: string;
  body?: string;
  badge?: number;
  sound?: string;
  category?: string;
  accepted_at: string;
  redelivery: boolean;
  pushed: boolean;
  has_message: boolean;
  ack: "received" | "displayed";
  tag?: string;
  subtitle?: string;
  thread?: string;
  link?: string;
  image?: string;
  level?: "passive" | "time-sensitive" | "critical";
  extra?: Record<string, unknown>;
}

export interface Dismissal {
  id: string;
}

export interface Message {
  id: string;
  account: string;
  data: unknown;
  accepted_at: string;
}

export type AppState = "foreground" | "background";

export interface APNsToken {
  token: string;
}

export function topics(prefix: string, device: string) {
  const own = `${prefix}/devices/${device}/`;
  return {
    notifications: own + "notifications",
    messages: own + "messages",
    acks: own + "acks",
    state: own + "state",
    pushToken: own + "push-token",
    dismissals: own + "dismissals",
    signOut: own + "sign-out",
  };
}
