// A row for each attribute: what it is now, a slider for what is wanted, a switch that holds it.
// The rows are kept while values change, so that a slider that is dragged is never replaced.
const rows = new Map();
let version = -1, held = null, names = "";
const list = element.querySelector(".rows");
const strength = element.querySelector(".strength input");
const holds = element.dataset.holds !== "no" && !element.querySelector(".no-holds");

function send(moving) {
  const wanted = {};
  for (const [name, row] of rows) if (row.wanted !== null) wanted[name] = row.wanted;
  const demand = { wanted, hold: held, strength: strength ? Number(strength.value) : 1 };
  if (moving) trigger("input", demand);
  else trigger("submit", demand);
}

function show(row) {
  const value = row.wanted === null ? row.now : row.wanted;
  if (value !== null && document.activeElement !== row.slider) row.slider.value = value;
  row.node.classList.toggle("is-wanted", row.wanted !== null);
  row.clear.disabled = row.wanted === null;
  const text = value === null ? "free" : `${Number(value).toFixed(2)}`;
  row.slider.setAttribute("aria-valuetext", row.wanted === null ? `${text}, not requested` : text);
}

function build(data) {
  list.replaceChildren();
  rows.clear();
  for (const item of data) {
    const node = document.createElement("div");
    node.className = "row";
    node.dataset.name = item.name;
    const id = `${element.id || "panel"}-${item.name}`;
    node.innerHTML = `<label><span></span></label><output></output><input type="range" min="0" max="1" step="0.01">
      <button type="button" class="clear">×</button>
      <button type="button" class="lock" role="switch"><span></span></button>`;
    const [label, now, slider, clear, lock] = node.children;
    const words = item.label || item.name;
    label.firstChild.textContent = label.title = words;
    label.htmlFor = slider.id = id;
    now.setAttribute("aria-label", `${words} now`);
    now.setAttribute("for", id);
    clear.setAttribute("aria-label", `Do not request ${words}`);
    clear.title = "Do not request it";
    lock.setAttribute("aria-label", `Hold ${words}`);
    const row = { node, now: null, slider, clear, lock, output: now, wanted: null };
    slider.addEventListener("input", () => { row.wanted = Number(slider.value); show(row); send(true); });
    slider.addEventListener("change", () => { row.wanted = Number(slider.value); show(row); send(false); });
    clear.addEventListener("click", () => {
      row.wanted = null;
      slider.value = row.now ?? 0.5;
      show(row);
      slider.focus();
      send(false);
    });
    lock.addEventListener("click", () => {
      const on = lock.getAttribute("aria-checked") !== "true";
      lock.setAttribute("aria-checked", String(on));
      held = [...rows].filter(([, r]) => r.lock.getAttribute("aria-checked") === "true").map(([n]) => n);
      send(false);
    });
    if (!holds) lock.remove();
    rows.set(item.name, row);
    list.append(node);
  }
}

function update() {
  const value = props.value;
  if (!value || !value.rows) return;
  const found = value.rows.map((item) => item.name).join("\n");
  if (found !== names) { names = found; build(value.rows); version = -1; }
  const fresh = value.version !== version;  // undo, reset, another start: the page follows
  version = value.version;
  if (fresh) held = value.hold;
  if (fresh && strength) strength.value = value.strength;
  for (const item of value.rows) {
    const row = rows.get(item.name);
    row.now = item.now ?? null;
    if (fresh) { row.wanted = item.wanted ?? null; if (document.activeElement === row.slider) row.slider.value = row.wanted ?? row.now ?? 0.5; }
    row.output.textContent = row.now === null ? "" : row.now.toFixed(2);
    row.node.style.setProperty("--now", `${100 * (row.now ?? 0)}%`);
    row.node.style.setProperty("--was", `${100 * (item.was ?? row.now ?? 0)}%`);
    row.node.dataset.mark = item.mark || "";
    row.lock.setAttribute("aria-checked", String(Boolean(item.held)));
    row.lock.title = item.held ? "Held: click to let it change" : "Free: click to hold it";
    show(row);
  }
  if (strength) element.querySelector(".strength output").textContent = Number(strength.value).toFixed(2);
}

if (strength) {
  const output = element.querySelector(".strength output");
  strength.addEventListener("input", () => { output.textContent = Number(strength.value).toFixed(2); send(true); });
  strength.addEventListener("change", () => send(false));
}
watch("value", update);
update();
