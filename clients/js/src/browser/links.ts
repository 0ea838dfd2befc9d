/**
 * Returns a link that a browser may open, "" for any other: a deep link is for apps, and
 * javascript: is for nobody.
 */
export function webLink(link: string | undefined): string {
  try {
    const u = new URL(link ?? "");
    return u.protocol === "https:" || u.protocol === "http:" ? u.href : "";
  } catch {
    return "";
  }
}
