(() => {
  const root = document.documentElement;
  const dark = window.matchMedia('(prefers-color-scheme: dark)');
  // A page opened as a file may be refused its storage.
  const remember = (theme) => {
    try { localStorage.setItem('theme', theme); } catch { /* for this visit */ }
  };
  const remembered = () => {
    try { return localStorage.getItem('theme'); } catch { return null; }
  };
  if (remembered()) root.dataset.theme = remembered();
  document.getElementById('theme').addEventListener('click', () => {
    const now = root.dataset.theme || (dark.matches ? 'dark' : 'light');
    root.dataset.theme = now === 'dark' ? 'light' : 'dark';
    remember(root.dataset.theme);
  });
})();
