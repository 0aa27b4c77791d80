// Before anything is drawn, so that nothing flashes in the wrong colours. What was
// chosen here last; without a choice the system's, which the style sheet asks for.
"use strict";
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("leastconn.theme");
  } catch {
    // Storage is forbidden: nothing is remembered.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
