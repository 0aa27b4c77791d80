// Applies the stored theme before the first paint, so that the page does not briefly show
// other colours. Without a stored theme, the style sheet follows the system.
"use strict";
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("leastconn.theme");
  } catch {
    // Storage is disabled.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
