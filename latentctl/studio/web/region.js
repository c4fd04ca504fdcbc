// Cells of the latent that may change, painted over the picture by the pointer or by arrows and space.
const board = element.querySelector("canvas"), pen = board.getContext("2d");
const picture = new Image();
let rows = 0, columns = 0, cells = [], place = 0, paint = null, typed = false;

function draw() {
  pen.clearRect(0, 0, board.width, board.height);
  if (picture.naturalWidth) { pen.imageSmoothingEnabled = false; pen.drawImage(picture, 0, 0, board.width, board.height); }
  const w = board.width / columns, h = board.height / rows;
  cells.forEach((on, at) => {
    const x = (at % columns) * w, y = Math.floor(at / columns) * h;
    if (!on) { pen.fillStyle = "rgba(29, 36, 51, 0.66)"; pen.fillRect(x, y, w, h); }
    if (typed && at === place) { pen.lineWidth = 3; pen.strokeStyle = "#2f5bd0"; pen.strokeRect(x + 2, y + 2, w - 4, h - 4); }
  });
  const free = cells.filter(Boolean).length;
  board.setAttribute("aria-label", `${free} of ${cells.length} cells may change; row ${Math.floor(place / columns) + 1}, ` +
    `column ${place % columns + 1} ${cells[place] ? "may change" : "stays"}. Arrows move, space turns.`);
}
function send() {
  const text = [];
  for (let row = 0; row < rows; row++) text.push(cells.slice(row * columns, (row + 1) * columns).map(Number).join(""));
  trigger("submit", { rows: text });
}
function at(event) {
  const box = board.getBoundingClientRect();
  const along = (value, size, count) => Math.min(count - 1, Math.max(0, Math.floor((value / size) * count)));
  return along(event.clientY - box.top, box.height, rows) * columns + along(event.clientX - box.left, box.width, columns);
}
board.addEventListener("pointerdown", (event) => {
  board.setPointerCapture(event.pointerId);
  typed = false; place = at(event);
  if (cells.every(Boolean)) cells.fill(false);  // the first stroke says where, not where not
  paint = !cells[place]; cells[place] = paint; draw();
});
board.addEventListener("pointermove", (event) => { if (paint !== null) { place = at(event); cells[place] = paint; draw(); } });
for (const end of ["pointerup", "pointercancel"]) board.addEventListener(end, () => { if (paint !== null) { paint = null; send(); } });
board.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (step && place + step >= 0 && place + step < cells.length) place += step;
  else if (event.key === " ") { cells[place] = !cells[place]; send(); }
  else if (!step) return;
  typed = true; event.preventDefault(); draw();
});
const presets = {
  all: () => true, invert: (row, column, on) => !on,
  upper: (row) => row < rows / 2, lower: (row) => row >= rows / 2,
  left: (row, column) => column < columns / 2, right: (row, column) => column >= columns / 2,
};
for (const button of element.querySelectorAll("[data-preset]")) {
  button.addEventListener("click", () => {
    cells = cells.map((on, place) => presets[button.dataset.preset](Math.floor(place / columns), place % columns, on));
    draw(); send();
  });
}
function show() {
  const before = document.querySelector("#stage-box [data-of=before]");
  if (before && before.src && picture.src !== before.src) picture.src = before.src;
  else draw();
}
picture.addEventListener("load", draw);
function update() {
  const value = props.value;
  if (!value) return;
  rows = value.rows; columns = value.columns;
  cells = value.region.length ? [...value.region.join("")].map((cell) => cell === "1") : Array(rows * columns).fill(true);
  place = Math.min(place, cells.length - 1);
  show();
}
const stage = document.querySelector("#stage-box");
if (stage) stage.addEventListener("shown", show, true);
watch("value", update);
update();
