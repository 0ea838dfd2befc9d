// What the API answers; docs of each field are in /openapi.json.

export interface Metric { name: string; labels?: Record<string, string>; value: number; p50?: number; p95?: number; p99?: number }
export interface Happened { time: string; event: string; id?: string; account: string; device?: string; detail?: string }
export interface Now {
  time: string; started_at: string; node?: string; version: string; ready: boolean; checks: Record<string, string> | null; faults?: string[];
  sample?: { time: number; values: Record<string, number> };
  metrics: Metric[]; events?: Happened[]; skipped?: number;
}
/** Overview is the data of an event of the stream; the first has the history. */
export interface Overview extends Now { history?: { time: number[]; series: Record<string, number[]> } }

export interface Delivery { device: string; state: string; attempts: number; pushed: boolean; verdict?: string }
export interface TimelineEvent { time: string; event: string; device?: string; attempt?: number; detail?: string }
export interface Notification {
  id: string; account: string; title?: string; body?: string; subtitle?: string; collapse_key?: string; ack: string; urgency: string;
  accepted_at: string; expires_at: string; state: string; deliveries: Delivery[]; timeline?: TimelineEvent[]; verdict?: string;
  extra?: unknown; link?: string; has_message?: boolean; fallback?: boolean; level?: string;
}
export interface NotificationList { notifications: Notification[]; next?: string }

export interface Registration {
  server: string; app?: string; environment?: string; kind: string; registered_at: string;
  suspended?: { since: string; reason: string; next_probe?: string }; ended?: { at: string; reason: string };
}
export interface Device {
  device: string; account: string; via: string; app?: string; outstanding: number; registrations?: Registration[];
  channel: { state: string; since?: string; last_heartbeat?: string; keepalive?: number; remote?: string };
}
export interface DeviceList { devices: Device[]; next?: string }

/** Found is what has exactly the name that was searched for. */
export interface Found { notification?: string; device?: { account: string; device: string }; account?: string }

/** View is a page: it fills main, and ends with signal. */
export type View = (main: HTMLElement, signal: AbortSignal, params: URLSearchParams, ...parts: string[]) => Promise<void>;
