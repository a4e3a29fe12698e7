"""The laboratory, lab.html: its numbers are Python's, everyone can use it, and nothing leaves the page."""

import base64
import importlib.util
import io
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import visiting
from PIL import Image
from torch import nn

from advutils import (
    accuracy,
    certified,
    certified_radius,
    fgsm,
    fgsm_step,
    input_gradient,
    load_data,
    make_loader,
    margin,
    pgd,
)  # fmt: skip

pytestmark = [pytest.mark.browser, pytest.mark.integration]
ROOT = Path(__file__).resolve().parents[2]
LARGEST = 2.5e6  # bytes of the page, with all that it needs
STEPS = 10
PGD = partial(pgd, steps=STEPS, random_start=False)
TOOLS = """(text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const { networks, Attacked, PIXELS } = laboratory, letter = (byte) => String.fromCharCode(byte);
    globalThis.images = Float32Array.from(bytes, (level) => level / 255);
    globalThis.sent = (numbers) => btoa(Array.from(new Uint8Array(numbers.buffer), letter).join(""));
    globalThis.attacked = async (i, k, y, attack, eps) => {
        const x = images.slice(k * PIXELS, (k + 1) * PIXELS);
        const one = new Attacked([networks[i]], { x, y, attack, target: null });
        await one.climb(eps, () => true, () => {});
        return one.seen(0, eps, 10);
    };
}"""  # numbers go to the page and come from it as base64: a list of them takes seconds
MOVE = """([eps, text, part]) => new Promise((resolve) => {
    const control = document.getElementById("eps"), before = performance.now();
    control.value = eps;
    control.dispatchEvent(new Event("input", { bubbles: true }));
    const look = () => {
        const said = document.getElementById(part), now = said.getAttribute("aria-label") ?? said.textContent;
        if (now.includes(text)) resolve(performance.now() - before);
        else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
})"""  # the milliseconds from a move of the slider until a part of the page says what it should


class FirstOfEqual(nn.Module):
    """2x2 max-pooling, with the gradient for the first of what is equal but for rounding.

    Black ground makes equal features, of which rounding favours one or another: in the clean network a fifth of the
    gradient's signs are others when PyTorch has an image alone and when it has it in a batch of fifty.
    """

    def forward(self, x):
        windows = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).transpose(3, 4).flatten(4)
        first = (windows >= windows.amax(-1, keepdim=True) - 1e-9).int().argmax(-1, keepdim=True)
        return windows.gather(-1, first).squeeze(-1)


class Exact(nn.Module):
    """The network in double precision, with ties decided as the page decides them: the same on every processor."""

    def __init__(self, model):
        super().__init__()
        layers = (FirstOfEqual() if isinstance(layer, nn.MaxPool2d) else layer for layer in model)
        self.layers = nn.Sequential(*layers).double().eval()

    def forward(self, x):
        return self.layers(x.double())


@pytest.fixture(scope="module")
def lab():
    """The script that makes the page."""
    spec = importlib.util.spec_from_file_location("lab", ROOT / "book" / "lab.py")
    spec.loader.exec_module(script := importlib.util.module_from_spec(spec))
    return script


@pytest.fixture(scope="module")
def file(lab, tmp_path_factory):
    """The page in a folder of its own."""
    folder = tmp_path_factory.mktemp("lab")
    lab.lab(folder / "made")
    return (folder / "made" / "lab.html").rename(folder / "lab.html")


@pytest.fixture(scope="module")
def networks(lab):
    """The networks of the page, in Python."""
    return [Exact(model).eval() for model in lab.networks().values()]


@pytest.fixture(scope="module")
def digits():
    """50 test digits and their labels."""
    return load_data("mnist-5k", train=False)[::20]


@pytest.fixture
def opened(visit, file):
    """opened(choices) is the page, opened from its file without a network, when it computes."""

    def open_page(choices=""):
        visit.page.context.set_offline(True)
        enter(visit.page, file, choices)
        return visit.page

    yield open_page
    quiet(visit)


def enter(page, file, choices=""):
    page.goto(f"{file.as_uri()}{choices and '#'}{choices}")
    page.wait_for_selector("body[data-ready]")


def quiet(visit):
    """No error, and no request but for the page itself and for what it holds."""
    assert visit.errors == []
    asked = [address.partition(":")[0] for address in visit.requests]
    assert set(asked) <= {"file", "blob", "data"} and asked.count("file") == 1


def said(page, words):
    """The status line, which waits until nothing changes any more, when it has these words."""
    page.wait_for_function("words => document.getElementById('status').textContent.includes(words)", arg=words)
    return page.locator("#status").inner_text()


def chosen(page):
    return page.evaluate("laboratory.state")


def levels(page, i, which=0):
    """The grey levels (28, 28) that the i-th network is shown; with which=1, how much of the change's colours shows."""
    canvas = page.locator(".card").nth(i).locator("canvas").nth(which)
    pixels = canvas.evaluate("c => Array.from(c.getContext('2d').getImageData(0, 0, 28, 28).data)")
    return np.reshape(pixels, (28, 28, 4))[..., 3 if which else 0]


def shows(page, i, x_adv, counts=True):
    """Whether the i-th network is shown this image (1, 1, 28, 28), where the pixels count."""
    beside = abs(levels(page, i) - 255 * x_adv[0, 0].numpy()) > 1
    return (beside & counts).mean() < 0.01


def large(gradient):
    """Where gradients (N, 1, 28, 28) are not next to nothing, where rounding decides over the sign: (N, 28, 28)."""
    size = abs(gradient[:, 0].numpy())
    return size > 1e-3 * size.max((1, 2), keepdims=True)


# the same numbers as Python


@pytest.fixture
def ask(opened, digits):
    """ask(expression, argument) is what JavaScript computes of the 50 digits, `images` there, as an array (50, ...)."""
    page = opened()
    page.evaluate(TOOLS, base64.b64encode((255 * digits[0]).round().byte().numpy().tobytes()).decode())

    def asked(expression, argument=None):
        text = page.evaluate(f"async (argument) => sent(await ({expression}))", argument)
        return np.frombuffer(base64.b64decode(text), np.float32).reshape(50, -1)

    return asked


def test_logits_are_those_of_python(ask, networks, digits):
    for i, model in enumerate(networks):
        with torch.no_grad():
            here = model(digits[0]).numpy()
        assert abs(ask(f"laboratory.networks[{i}].logits(images)") - here).max() < 1e-4


def test_gradients_have_the_signs_of_python(ask, networks, digits):
    x, y = digits
    for i, model in enumerate(networks):
        here = input_gradient(model, x, y)
        there = ask(f"laboratory.networks[{i}].gradient(images, argument)", y.tolist()).reshape(50, 28, 28)
        assert (np.sign(there) == here[:, 0].sign().numpy()).mean() > 0.9999


@pytest.mark.parametrize("attack, same", [("FGSM", fgsm), ("PGD", PGD)])
def test_what_is_read_under_attack_is_what_python_reads(ask, networks, digits, attack, same):
    """Each of the 50. In ten steps rounding turns round the sign of a few small gradients, which moves some margins."""
    x, y = digits
    all_of_them = """(async () => {
        const seen = [];
        for (const [k, y] of argument.labels.entries())
            seen.push(await attacked(argument.i, k, y, argument.attack, 0.1));
        return Float32Array.from(seen.flatMap(({ read, margin }) => [read, margin]));
    })()"""
    for i, model in enumerate(networks):
        with torch.no_grad():
            here = model(same(model, x, y, eps=0.1))
        read, lead = ask(all_of_them, dict(i=i, labels=y.tolist(), attack=attack)).T
        assert (read == here.argmax(1).numpy()).all()
        assert np.quantile(abs(margin(here, y).numpy() - lead), 1 if attack == "FGSM" else 0.7) < 1e-3


def test_a_step_towards_a_target_is_that_of_python(opened, networks, lab):
    page = opened("digit=8&attack=PGD&eps=0.160&target=9&step=1")
    said(page, "step 1 of 10 towards 9")
    x = lab.digits()[0][8:9]
    for i, model in enumerate(networks):
        gradient = input_gradient(model, x, torch.tensor([9]))
        assert shows(page, i, fgsm_step(x, -gradient, 2.5 * 0.16 / STEPS), large(gradient))


def test_the_certified_radius_is_that_of_python(ask, lab, digits):
    x, y = digits
    (i,) = [i for i, label in enumerate(lab.NETWORKS) if label.startswith("certified")]
    here = certified_radius(list(lab.networks().values())[i], x, y)
    there = ask(f"""Float32Array.from(argument, (y, k) => laboratory.networks[{i}].certifiedRadius(
        images.slice(784 * k, 784 * (k + 1)), y))""", y.tolist())  # fmt: skip
    assert (here > 0.1).sum() > 40
    assert abs(there.ravel() - here.numpy()).max() < 1e-3


def test_the_book_names_the_numbers_of_these_networks(lab):
    """As measured on any processor, to within a point."""
    test = make_loader(load_data("mnist-5k", train=False), batch_size=250)
    lines = (ROOT / "book" / "about_lab.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")][2:]
    assert [row[0] for row in rows] == list(lab.NETWORKS)
    for (_, weights, *shares), model in zip(rows, lab.networks().values()):
        assert int(weights.replace(",", "")) == sum(part.numel() for part in model.parameters())
        records = [accuracy(model, test), accuracy(model, test, PGD, eps=0.1), certified(model, test, eps=0.1)]
        for written, record in zip(shares, records, strict=True):
            assert float(written.removesuffix("%")) == pytest.approx(100 * record.value, abs=1)


# by mouse, by finger, by keys


def test_keys_move_epsilon_and_the_picture_follows(opened, networks, lab):
    page = opened("digit=14&attack=FGSM&eps=0.100")
    handle = page.get_by_role("slider", name="epsilon")
    handle.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    x, y = (part[14:15] for part in lab.digits())
    text = said(page, "epsilon 0.120")
    assert handle.get_attribute("aria-valuetext") == "epsilon 0.120" and page.locator("#value").inner_text() == "0.120"
    for i, (model, label) in enumerate(zip(networks, lab.NETWORKS)):
        x_adv = fgsm(model, x, y, eps=0.12)
        with torch.no_grad():
            read = model(x_adv).argmax().item()
        assert shows(page, i, x_adv, large(input_gradient(model, x, y)))
        assert f"{label} reads {read}, margin {'+' if read == 7 else chr(0x2212)}" in text
        assert page.locator(".verdict").nth(i).inner_text().startswith(f"{'✓' if read == 7 else '✗'} reads {read}")
    page.keyboard.press("Home")
    said(page, "epsilon 0.000")
    assert shows(page, 0, x) and levels(page, 0, which=1).max() < 3  # nothing is changed


def test_a_hand_moves_the_handle_and_the_curve(opened):
    page = opened()
    for place in (page.locator("#eps"), page.locator("#chart")):
        place.scroll_into_view_if_needed()
        box = place.bounding_box()
        page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + box["height"] / 2, steps=5)
        page.mouse.up()
        assert chosen(page)["eps"] == pytest.approx(0.18, abs=0.006)
        assert page.locator("#value").inner_text() == page.locator("#eps").evaluate("e => Number(e.value).toFixed(3)")


def test_what_is_no_hand_on_the_curve_leaves_epsilon(opened):
    page = opened("digit=14&attack=FGSM&eps=0.120")
    curve, words = (page.locator(part).bounding_box() for part in ("#chart", "header p"))
    page.mouse.move(words["x"] + 300, words["y"] + 10)
    page.mouse.down()  # selects words
    page.mouse.move(curve["x"] + 700, curve["y"] + 60, steps=5)
    page.mouse.up()
    page.mouse.click(curve["x"] + 200, curve["y"] + 60, button="right")
    assert chosen(page)["eps"] == 0.12


def test_the_curve_falls_below_zero_where_the_digit_is_misread(opened):
    page = opened("digit=14&attack=FGSM&eps=0.120")
    page.wait_for_function("() => document.querySelectorAll('#chart .curve').length === laboratory.networks.length")
    zero = page.locator("#chart .zero").evaluate("line => line.y1.baseVal.value")
    heights = page.locator("#chart .point").evaluate_all("all => all.map((one) => one.getBBox().y + 5)")
    reads = page.locator(".verdict strong").all_inner_texts()
    assert [height < zero for height in heights] == [text == "7" for text in reads] and reads[:2] == ["9", "7"]


def test_a_stroke_is_read_and_is_in_the_address(opened, browser, file):
    page = opened("attack=none")
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 0.8 * box["height"], steps=8)
    page.mouse.up()
    said(page, "A 1 under no attack")
    white = "([x, y]) => document.getElementById('pad').getContext('2d').getImageData(x, y, 1, 1).data[0]"
    assert page.evaluate(white, [142, 150]) == 255 and page.evaluate(white, [60, 150]) == 0
    ink = levels(page, 0)
    rows, columns = np.nonzero(ink > 127)
    assert 18 <= np.ptp(rows) + 1 <= 20
    assert np.average(columns, weights=ink[rows, columns]) == pytest.approx(13.5, abs=1)
    page.get_by_label("It is a").select_option("7")
    said(page, "A 7 under no attack")
    page.wait_for_function("() => location.hash.includes('meant=7')")
    with visiting(browser) as other:
        other.page.goto(page.url)
        said(other.page, "A 7 under no attack")
        assert np.array_equal(levels(other.page, 0), ink)
        assert other.page.evaluate(white, [142, 150]) == 255
    page.get_by_role("button", name="Clear").click()
    assert chosen(page)["strokes"] is None and page.evaluate(white, [142, 150]) == 0


def test_a_stroke_that_is_wiped_off_under_the_hand_ends(opened):
    page = opened("attack=PGD")
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 90, steps=5)
    assert len(chosen(page)["strokes"][0]) > 2
    page.evaluate("document.getElementById('clear').click()")
    page.mouse.move(box["x"] + 90, box["y"] + 30, steps=5)
    page.mouse.up()
    assert chosen(page)["strokes"] is None
    page.mouse.click(box["x"] + 80, box["y"] + 80)  # a dot, the smallest drawing
    said(page, "under PGD, step 10 of 10")
    assert levels(page, 0).max() > 200 and len(chosen(page)["strokes"][0]) == 1


def test_a_fast_hand_is_read_once_an_event(opened):
    page = opened("attack=none")
    read = page.evaluate("""() => {
        const pad = document.getElementById("pad"), box = pad.getBoundingClientRect(), seen = [];
        const event = (name, place, options) => new PointerEvent(name, { isPrimary: true, buttons: 1, button: 0,
            clientX: box.left + place, clientY: box.top + place, ...options });
        const change = laboratory.change.bind(laboratory);
        laboratory.change = (part) => (seen.push(part.strokes[0].length), change(part));
        pad.setPointerCapture = () => {};
        const coalescedEvents = [40, 60, 80, 100].map((place) => event("pointermove", place));
        pad.dispatchEvent(event("pointerdown", 20));
        pad.dispatchEvent(event("pointermove", 100, { coalescedEvents }));
        return seen;
    }""")  # lengths of the stroke
    assert read == [1, 5]


def test_a_digit_is_drawn_with_keys(opened):
    page = opened("attack=none")
    page.locator("#pad").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.down("Shift")
    for _ in range(12):
        page.keyboard.press("ArrowDown")
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.move(box["x"] + 40, box["y"] + 40)  # it only passes by
    page.keyboard.up("Shift")
    said(page, "A 1 under no attack")
    ((first, *others),) = chosen(page)["strokes"]
    assert len(others) == 12 and {across for across, _ in others} == {first[0]}
    for key in (*["ArrowDown"] * 12, "Shift+ArrowDown"):
        page.keyboard.press(key)
    assert len(chosen(page)["strokes"][1]) == 1  # at the edge there is nothing below to draw


@pytest.mark.parametrize("width", [320, 360, 390])
def test_on_a_phone_fingers_do(browser, file, width):
    with visiting(browser, viewport=dict(width=width, height=780), has_touch=True, is_mobile=True) as phone:
        enter(phone.page, file)
        assert phone.overhang() <= 0
        phone.page.get_by_role("radio", name="test digit 4, number 1").tap()
        phone.page.get_by_role("radio", name="PGD").tap()
        said(phone.page, "A 4 under PGD, step 10 of 10")
        slider = phone.page.locator("#eps").bounding_box()
        assert slider["y"] + slider["height"] <= 780  # it stays in sight
        phone.page.evaluate("scrollTo(0, 0)")
        pad, curve = (phone.page.locator(part).bounding_box() for part in ("#pad", "#chart"))
        swipe(phone.page, pad["x"] + 30, pad["y"] + 10, 80)
        ((stroke, *others),) = [chosen(phone.page)["strokes"]]
        assert len(stroke) > 2 and len({across for across, _ in stroke}) == 1 and not others  # the pad stays in place
        before = chosen(phone.page)["eps"]
        swipe(phone.page, curve["x"] + 0.8 * curve["width"], curve["y"] + 60, -100)
        assert phone.page.evaluate("scrollY") > 0 and chosen(phone.page)["eps"] == before
        phone.page.touchscreen.tap(slider["x"] + 0.5 * slider["width"], slider["y"] + slider["height"] / 2)
        assert chosen(phone.page)["eps"] == pytest.approx(0.15, abs=0.011)
        assert phone.overhang() <= 0
        small = "all => all.filter((one) => one.getBoundingClientRect().height < 24).length"
        targets = "button:visible, select:visible, label.digit, .segments label, #eps"
        assert phone.page.locator(targets).evaluate_all(small) == 0
        cut = "all => all.filter((one) => one.scrollWidth > one.clientWidth).length"
        assert phone.page.locator(".segments span").evaluate_all(cut) == 0
        quiet(phone)


@pytest.mark.parametrize("width", [667, 844])
def test_a_phone_on_its_side_shows_pictures_and_slider_together(browser, file, width):
    with visiting(browser, viewport=dict(width=width, height=360), has_touch=True, is_mobile=True) as phone:
        enter(phone.page, file)
        assert phone.overhang() <= 0
        pad, panel = (phone.page.locator(part).bounding_box() for part in ("#pad", ".radius"))
        assert pad["y"] + pad["height"] <= panel["y"]
        phone.page.evaluate("document.getElementById('networks').scrollIntoView()")
        panel = phone.page.locator(".radius").bounding_box()
        for card in phone.page.locator(".card").all():
            parts = [card.locator(".verdict"), *card.locator(".pictures canvas").all()]
            places = [part.bounding_box() for part in parts]
            assert min(at["y"] for at in places) >= 0
            assert max(at["y"] + at["height"] for at in places) <= panel["y"]
        quiet(phone)


def swipe(page, x, y, down):
    """A finger goes down a page, or up it."""
    finger = page.context.new_cdp_session(page)
    finger.send("Input.dispatchTouchEvent", dict(type="touchStart", touchPoints=[dict(x=x, y=y)]))
    for part in range(1, 6):
        points = [dict(x=x, y=y + part * down / 5)]
        finger.send("Input.dispatchTouchEvent", dict(type="touchMove", touchPoints=points))
        page.evaluate("() => new Promise(requestAnimationFrame)")
    finger.send("Input.dispatchTouchEvent", dict(type="touchEnd", touchPoints=[]))


def test_slow_motion_takes_one_step_after_the_other(opened):
    page = opened("digit=14&attack=PGD&eps=0.120")
    said(page, "step 10 of 10")
    page.wait_for_function("() => document.querySelectorAll('#chart .curve').length === laboratory.networks.length")
    note = "new MutationObserver(() => seen.push(taken.textContent))"
    page.evaluate(f"seen = []; {note}.observe(taken, {{ childList: true }})")
    page.get_by_role("button", name="Slow motion").click()
    page.wait_for_function("() => seen.at(-1) === '10 of 10'")
    assert list(dict.fromkeys(page.evaluate("seen"))) == [f"{step} of 10" for step in range(11)]
    page.get_by_label("PGD step").fill("0")
    said(page, "step 0 of 10")
    page.get_by_role("button", name="Slow motion").click()
    page.evaluate("location.hash = '#digit=14&attack=PGD&eps=0.120&step=2'")  # an address is no part of the film
    page.wait_for_timeout(1000)
    assert chosen(page)["step"] == 2


# for everyone


def test_an_address_brings_its_situation_and_nonsense_does_no_harm(opened):
    page = opened("digit=3&attack=PGD&eps=0.200&target=7&step=4")
    assert chosen(page) == dict(digit=3, strokes=None, meant=None, attack="PGD", eps=0.2, target=7, step=4)
    said(page, "A 1 under PGD, step 4 of 10 towards 7, epsilon 0.200")
    page.get_by_role("link", name="noise of the same size").click()
    said(page, "under noise")
    page.evaluate("location.hash = '#digit=99&attack=magic&eps=7&target=12&step=-1&drawn=!!'")
    said(page, "under FGSM")
    assert page.evaluate("location.hash") == "#digit=14&attack=FGSM&eps=0.120"
    page.evaluate("location.hash = `#digit=&eps=.1234&drawn=${'ab'.repeat(4000)}&%&=`")  # too many points
    said(page, "epsilon 0.125")
    assert page.evaluate("location.hash") == "#digit=14&attack=FGSM&eps=0.125"


def test_the_address_that_is_copied_is_that_of_what_is_seen(opened):
    page = opened("digit=14&attack=PGD&eps=0.120")
    copied = page.evaluate("""() => {
        navigator.clipboard.writeText = async (text) => (globalThis.copied = text);
        eps.value = 0.2;
        eps.dispatchEvent(new Event("input", { bubbles: true }));
        share.click(); // PGD is still running
        return copied;
    }""")
    assert copied.endswith("#digit=14&attack=PGD&eps=0.200")


def test_a_page_that_was_saved_as_it_stood_opens_anew(opened, browser, tmp_path):
    page = opened("digit=3&attack=PGD&eps=0.200&target=7")
    saved = tmp_path / "saved.html"
    saved.write_text(page.content(), encoding="utf-8")
    with visiting(browser) as other:
        other.page.goto(saved.as_uri())
        said(other.page, "A 7 under FGSM")
        counts = [page.locator(part).count() for part in (".card", ".digit", "input", "option")]
        assert [other.page.locator(part).count() for part in (".card", ".digit", "input", "option")] == counts


def test_a_target_is_named_only_where_an_attack_aims(opened):
    page = opened("digit=11&attack=none&target=1")  # a 5 that two networks read as a 1
    said(page, "A 5 under no attack, epsilon")
    assert "target" not in " ".join(page.locator(".verdict").all_inner_texts())
    page.get_by_role("radio", name="FGSM").check()
    said(page, "A 5 under FGSM towards 1")
    assert page.locator(".verdict").first.inner_text() == "✗ reads 1 the target"


def test_everything_has_a_name_and_is_reached_by_keys(opened):
    page = opened("digit=14&attack=PGD&eps=0.120")
    said(page, "step 10 of 10")
    tree = page.locator("body").aria_snapshot()
    for line in ('slider "epsilon"', 'radio "test digit 7, number 1"', 'radio "PGD" [checked]', 'combobox "towards',
                 'slider "PGD step', 'button "Slow motion"', 'img "or draw one', 'img "Margin against epsilon',
                 'img "class probabilities: ', "status: A 7 under PGD"):  # fmt: skip
        assert line in tree, line
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.name"))
    assert {"digit", "pad", "clear", "attack", "target", "play", "step", "eps", "share"} <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(opened, visit, scheme):
    visit.page.emulate_media(color_scheme=scheme)
    page = opened("digit=14&attack=FGSM&eps=0.120")
    told = """all => all.map((one) => {
        let ground = one;
        while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
        return [getComputedStyle(one).color, getComputedStyle(ground).backgroundColor];
    })"""
    words = "h1, h2, p, .verdict strong, .bar b, .bar small, figcaption, label, button, a"
    pairs = page.locator(words).evaluate_all(told)
    assert len(pairs) > 40 and min(contrast(*pair) for pair in pairs) > 4.5


def test_what_does_not_change_is_clear_also_when_it_grows_dark(opened):
    page = opened("digit=14&attack=none")
    shown = page.locator(".difference").first
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ground = page.locator(".card").first.evaluate("card => getComputedStyle(card).backgroundColor")
        picture = np.asarray(Image.open(io.BytesIO(shown.screenshot())).convert("RGB"))
        assert np.median(picture, (0, 1)) == pytest.approx(rgb(ground), abs=2)


def rgb(color):
    return [int(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]]


def contrast(*colors):
    """The contrast of two colours as WCAG 2 defines it, 1 to 21."""

    def luminance(color):
        red, green, blue = (part / 255 for part in rgb(color))
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
        return np.dot(parts, [0.2126, 0.7152, 0.0722])

    dark, light = sorted(map(luminance, colors))
    return (light + 0.05) / (dark + 0.05)


def test_networks_and_mistakes_are_told_apart_without_colours(opened):
    page = opened("digit=14&attack=FGSM&eps=0.120")
    page.wait_for_function("() => document.querySelectorAll('#chart .curve').length === laboratory.networks.length")
    dashed = "all => all.map((one) => getComputedStyle(one).strokeDasharray)"
    dashes = page.locator("#chart .curve").evaluate_all(dashed)
    marks = page.locator("#chart .point").evaluate_all("all => all.map((one) => one.tagName)")
    assert len(set(dashes)) == len(dashes) == len(set(marks)) == len(marks)
    assert page.locator(".sign").all_inner_texts()[:2] == ["✗", "✓"]
    assert "gradient" in page.locator(".bar.wrong i").first.evaluate("one => getComputedStyle(one).backgroundImage")


def test_all_of_it_is_small(file):
    assert 500_000 < file.stat().st_size < LARGEST


def test_the_certificate_stands_on_the_slider_up_to_its_radius(opened, lab):
    page = opened("digit=14&attack=FGSM&eps=0.120")
    (i,) = [i for i, label in enumerate(lab.NETWORKS) if label.startswith("certified")]
    radius = page.evaluate(f"laboratory.networks[{i}].certifiedRadius(laboratory.digits[14].x, 7)")
    assert 0.1 < radius < 0.3
    proved = f"{math.floor(1000 * radius) / 1000:.3f}"
    assert page.locator("#proven").inner_text() == f"certified: no attack changes it up to {proved}"
    bar, track = (page.locator(part).bounding_box() for part in ("#proof", "#eps"))
    assert bar["width"] / (track["width"] - 28) == pytest.approx(radius / 0.3, abs=0.01)
    assert f"certified up to {proved}" in said(page, "certified network reads 7")
    for digit in range(20):  # beyond its radius nothing is proved
        page.evaluate("digit => laboratory.change({ digit })", digit)
        if (words := page.locator("#proven").inner_text()).startswith("certified: no attack"):
            named = [digit, float(words.split()[-1])]
            assert page.evaluate(f"""([digit, named]) => {{
                const {{ x, y }} = laboratory.digits[digit];
                return laboratory.networks[{i}].certifiedRadius(x, y) >= named;
            }}""", named)  # fmt: skip
    page.get_by_role("radio", name="test digit 5, number 2").check()  # which it misreads
    said(page, "A 5 under")
    assert page.locator("#proven").inner_text() == "certified: nothing is proved for this digit"


# on the book's first page


@pytest.fixture
def first_page(visit, lab, networks, tmp_path):
    """What the first page has of it, in a page of its own."""
    lab.lab(tmp_path)
    part = (ROOT / "book" / "index.md").read_text(encoding="utf-8").split("```{raw} html\n")[1].split("```")[0]
    (tmp_path / "index.html").write_text(f"<!doctype html><meta charset='utf-8'><main>{part}</main>", encoding="utf-8")
    visit.page.goto((tmp_path / "index.html").as_uri())
    visit.page.wait_for_selector(".lab.first[data-ready]")
    yield visit.page
    assert visit.errors == [] and {address.partition(":")[0] for address in visit.requests} <= {"file", "blob"}


def test_the_first_page_opens_with_two_networks_and_a_slider(first_page, visit, networks, lab):
    handle = first_page.get_by_role("slider", name="Each pixel may change by at most")
    assert first_page.locator(".verdict").all_inner_texts() == ["✗ reads 9 89%", "✓ reads 7 94%"]
    handle.focus()
    first_page.keyboard.press("End")
    assert handle.get_attribute("aria-valuetext").startswith("0.300: clean VGG reads ")
    x, y = (part[14:15] for part in lab.digits())
    for i, model in enumerate(networks[:2]):
        assert shows(first_page, i, fgsm(model, x, y, eps=0.3), large(input_gradient(model, x, y)))
    for width in (360, 1280):
        first_page.set_viewport_size(dict(width=width, height=800))
        assert visit.overhang() <= 0
    first_page.get_by_role("link", name="laboratory").click()
    first_page.wait_for_selector("body[data-ready]")
    assert chosen(first_page)["eps"] == 0.3 and chosen(first_page)["digit"] == 14


def test_the_first_page_says_why_networks_cannot_run(lab, browser, tmp_path):
    lab.lab(tmp_path)
    (tmp_path / "index.html").write_text('<div class="lab first"></div><script src="lab_small.js"></script>')
    with visiting(browser) as old:
        old.page.add_init_script("WebAssembly.validate = () => false")
        old.page.goto((tmp_path / "index.html").as_uri())
        words = old.page.locator(".lab.first p").inner_text()
    assert words == "Here they cannot run: this browser lacks WebAssembly SIMD."


SUMS = """() => {
    const numbers = new Float32Array(1 << 20).fill(0.5), started = performance.now();
    let sum = 0;
    for (let round = 0; round < 20; round++) for (let i = 0; i < numbers.length; i++) sum += numbers[i] * numbers[i];
    return performance.now() - started + 0 * sum;
}"""  # 21 million multiplications of plain JavaScript: what a processor is worth, whichever it is


def test_pictures_come_at_once(opened):
    """In the page's own thread, as others may keep the processor busy, and as multiples of what it takes to count.

    Where this was written a count took 20 ms, so a picture may take 80 ms and ten steps 800 ms; `-s` shows the times.
    """
    page = opened("digit=14&attack=FGSM&eps=0.000")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", dict(timeDomain="threadTicks"))

    def moved(eps, text, part):
        def busy():
            metrics = session.send("Performance.getMetrics")["metrics"]
            return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

        before = busy()
        clock = page.evaluate(MOVE, [eps, text, part])
        return 1000 * (busy() - before), clock

    radii = [round(0.01 * part, 2) for part in range(5, 20)]
    times = {"FGSM": [moved(eps, f"epsilon {eps:.3f}", "chart") for eps in radii]}
    page.get_by_role("radio", name="PGD").check()
    times["PGD"] = []
    for eps in radii[::3]:
        said(page, "step 10 of 10")
        times["PGD"].append(moved(eps, "10 of 10", "taken"))
    for attack, pairs in times.items():
        own, clock = np.median(pairs, axis=0)
        print(f"{attack}: {own:.0f} ms of its thread, {clock:.0f} ms by the clock")
    count = min(page.evaluate(SUMS) for _ in range(9))
    print(f"a count: {count:.1f} ms")
    assert np.median(times["FGSM"], axis=0)[0] < 4 * count and np.median(times["PGD"], axis=0)[0] < 40 * count
