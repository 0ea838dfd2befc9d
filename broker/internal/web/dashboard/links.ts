import { h } from "./dom";
import { level } from "./api";

export const toNotification = (id: string) => h("a", { href: `#/notifications/${level(id)}`, class: "code" }, id);
export const toAccount = (account: string) => h("a", { href: `#/accounts/${level(account)}` }, account);
export const toDevice = (account: string, device: string) => h("a", { href: `#/accounts/${level(account)}/devices/${level(device)}` }, device);
