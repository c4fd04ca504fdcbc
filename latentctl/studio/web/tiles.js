// Pictures as buttons: a press sends the place of the picture.
const list = element.querySelector(".tiles");
const empty = element.querySelector(".empty");
function update() {
  const items = (props.value && props.value.items) || [];
  while (list.children.length > items.length) list.lastChild.remove();
  items.forEach((item, place) => {
    let button = list.children[place];
    if (!button) {
      button = document.createElement("button");
      button.type = "button";
      button.innerHTML = "<img alt=''><span></span>";
      button.addEventListener("click", () => trigger("select", { place }));
      list.append(button);
    }
    const [picture, caption] = button.children;
    if (picture.getAttribute("src") !== item.src) picture.src = item.src;
    caption.textContent = item.caption;
    button.dataset.mark = item.mark || "";
    button.setAttribute("aria-label", [item.caption, item.words].filter(Boolean).join(", "));
    if (item.mark === "current") button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  });
  const current = list.querySelector("[aria-current]");
  if (current) list.scrollLeft = current.offsetLeft - list.clientWidth / 2;
  if (empty) empty.hidden = items.length > 0;
}
watch("value", update);
update();
