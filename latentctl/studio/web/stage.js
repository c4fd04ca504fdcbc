// Before and after: side by side, as a wipe, or with their difference.
const stage = element.querySelector(".stage");
const buttons = [...element.querySelectorAll("[data-view]")];
const cut = element.querySelector(".cut");
for (const button of buttons) {
  button.addEventListener("click", () => {
    stage.dataset.shows = button.dataset.view;
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
  });
}
if (cut) cut.addEventListener("input", () => stage.style.setProperty("--cut", `${cut.value}%`));
// a picture that is dropped or pasted goes the way of the button
function pass(files) {
  const field = document.querySelector("#upload input[type=file], input#upload, .starts input[type=file]");
  if (!field || !files || !files.length) return false;
  const carried = new DataTransfer();
  carried.items.add(files[0]);
  field.files = carried.files;
  field.dispatchEvent(new Event("change", { bubbles: true }));
  return true;
}
stage.addEventListener("dragover", (event) => event.preventDefault());
stage.addEventListener("drop", (event) => {
  event.preventDefault();
  pass(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (element.offsetParent && pass(event.clipboardData && event.clipboardData.files)) event.preventDefault();
});
function update() {
  const value = props.value;
  if (!value) return;
  for (const picture of element.querySelectorAll("[data-of]")) {
    const of = picture.dataset.of;
    if (value[of] && picture.getAttribute("src") !== value[of]) picture.src = value[of];
    if (value[`${of}_words`]) picture.alt = value[`${of}_words`];
  }
  for (const text of element.querySelectorAll("[data-text]")) text.textContent = value[text.dataset.text] || "";
  for (const link of element.querySelectorAll("a[data-href]")) if (value[link.dataset.href]) link.href = value[link.dataset.href];
  stage.dataset.seconds = value.seconds;  // of the server, for benchmarks/systems/studio.py
  stage.dispatchEvent(new CustomEvent("shown"));
}
watch("value", update);
update();
