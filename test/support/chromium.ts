// The browser of tests that need one.

import { accessSync, constants } from "node:fs";
import path from "node:path";

/** The system's Chromium; null: none. */
export function findChromium(): string | null {
  const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
  const folders = (process.env["PATH"] ?? "").split(path.delimiter);
  const places = [process.env["ESFT_CHROMIUM"] ?? "", ...folders.flatMap((folder) => names.map((name) => path.join(folder, name)))];
  for (const place of places)
    try {
      if (place === "") continue;
      accessSync(place, constants.X_OK);
      return place;
    } catch {
      continue;
    }
  return null;
}
