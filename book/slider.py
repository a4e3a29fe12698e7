"""The page with the slider that needs no kernel: the frames of frames.py, a range input, and some lines of script."""

import base64
import json
from pathlib import Path

from advutils.widgets.panel import SCRIPT

FRAMES = Path(__file__).resolve().parent / "frames"
BEGIN = 10  # the frame that is shown first

PAGE = """# The slider, without a kernel

Ten test digits and two networks, one of them trained on batches that were mixed with FGSM images at 0.1. Drag epsilon,
or use the arrow keys: from left to right each pixel may move further. A wrong answer is framed and marked ✗; the tile
that is underlined is shown larger, with its perturbation and with what the network believes (the true class in blue).

```{{raw}} html
<div class="slider">
  <p><label for="radius">epsilon</label>
    <input type="range" id="radius" min="0" max="{last}" step="1" value="{begin}">
    <output for="radius" id="value">{eps}</output>
    <span role="radiogroup" aria-label="attack">{choices}</span></p>
  <div class="frame" id="frame"></div>
  <noscript>{said}</noscript>
</div>
<script type="application/json" id="frames">{frames}</script>
<script type="module">
{script}
const find = (id) => document.getElementById(id), {{ eps, attacks, pixels }} = JSON.parse(find("frames").textContent);
const packed = new Blob([Uint8Array.from(atob(pixels), (letter) => letter.charCodeAt(0))]).stream();
const bytes = new Uint8Array(await new Response(packed.pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
const tell = build(find("frame")), names = Object.keys(attacks), each = bytes.length / (names.length * eps.length);
const show = () => {{
  const number = Number(find("radius").value);
  const attack = document.querySelector(".slider input[type=radio]:checked").value;
  const start = each * (names.indexOf(attack) * eps.length + number);
  const {{ scene, shown, words }} = attacks[attack];
  tell(scene, shown[number], bytes.subarray(start, start + each), `${{attack}}: ${{words[number]}}`);
  find("value").textContent = eps[number].toFixed(3);
  find("radius").setAttribute("aria-valuetext", eps[number].toFixed(3));
}};
document.querySelector(".slider").addEventListener("input", show);
show();
</script>
```

Each of these {count} pictures is drawn, by the code that draws the slider of
[notebook 3](notebooks/03_visualize.ipynb), from numbers that were computed there and kept. Under a kernel it goes on:
other digits, digits near the boundary, noise of the same size, and a pad to draw a digit of your own.
"""


def slider(source):
    """Write slider.md into the folder of sources."""
    about = json.loads((FRAMES / "frames.json").read_text(encoding="utf-8"))
    eps, attacks = about["eps"], about["attacks"]
    pixels = base64.b64encode((FRAMES / "pixels.zlib").read_bytes()).decode()
    first = next(iter(attacks))
    choices = " ".join(
        f'<label><input type="radio" name="attack" value="{attack}"{" checked" * (attack == first)}> {attack}</label>'
        for attack in attacks
    )
    text = PAGE.format(
        last=len(eps) - 1,
        begin=BEGIN,
        eps=f"{eps[BEGIN]:.3f}",
        choices=choices,
        said=f"It needs scripts. Without them, one of its frames in words: {attacks[first]['words'][BEGIN]}",
        frames=json.dumps(dict(eps=eps, attacks=attacks, pixels=pixels)),
        script=SCRIPT.read_text(encoding="utf-8").partition("export default")[0].replace("export ", ""),
        count=len(eps) * len(attacks),
    )
    (source / "slider.md").write_text(text, encoding="utf-8")
