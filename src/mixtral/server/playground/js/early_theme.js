/* Sets the chosen theme before anything is drawn; a module would come too late and flash. */
try {
  const { theme } = JSON.parse(localStorage.getItem("mixtral.preferences") ?? "{}");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Without storage, or with a damaged entry, the system's theme holds.
}
