// Finds the page of a tip among the open ones.
import type { TipData } from "./news.js";

/**
 * Returns the open page that a tip belongs to; undefined if there is none. A worker knows a
 * page by the address that it was loaded from: a page can have changed its own since then,
 * and may have been loaded without its query.
 */
export function findPage<C extends { readonly url: string }>(open: readonly C[], tip: Pick<TipData, "page" | "loaded">): C | undefined {
  const whole = (address: string) => address.replace(/#.*/, "");
  const page = new URL(tip.page);
  return open.find((c) => whole(c.url) === whole(tip.page)) ?? open.find((c) => whole(c.url) === whole(tip.loaded ?? "")) ?? open.find((c) => {
    const u = new URL(c.url);
    if (u.origin !== page.origin) return false;
    if (!page.search) return u.pathname.startsWith(page.pathname);
    return u.pathname === page.pathname && [...u.searchParams].every(([name, value]) => (page.searchParams.get(name) ?? value) === value);
  });
}
