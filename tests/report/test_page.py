"""The page: its data, its structure, what jobs may be called, its size; and, where there is a Chromium, that it works in one."""

import contextlib
import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from selenium import webdriver
from selenium.common.exceptions import SessionNotCreatedException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from gahp.report import Price, Prices, as_csv, as_json, examine, render
from gahp.report.figures import ENDINGS, MOST_ROWS, PHASES
from gahp.report.page import _part
from gahp.report.tables import COLUMNS
from gahp.run import RunState
from tests import needs
from tests.report.conftest import T

EVIL = "</script></title><script>alert(1)</script><b>&'\"\u2028\udcff"
PRICES = Prices((("*", Price(0.04, 0.004)),))


class Outline(HTMLParser):
    """The tags of a page with their attributes, and the text of each script."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.ids, self._in = [], [], set(), ""
        self.open = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids |= {value for name, value in attrs if name == "id"}
        if tag == "script":
            self.scripts.append("")
        if tag not in ("meta", "link", "input", "br", "img", "hr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, text):
        if self.scripts and self.open and self.open[-1] == "script":
            self.scripts[-1] += text

    def data(self):
        return json.loads(self.scripts[0])


def page(histories, title="Jobs", prices=PRICES, now=T + 1000):
    return Outline(render(examine(histories, now, prices), title))


def test_the_data_of_the_page_are_the_jobs(made):
    data = page([made(1, dag_node="B1"), made(2, exit_code=1)]).data()
    first, second = (dict(zip(data["fields"], job, strict=True)) for job in data["jobs"])
    assert (first["label"], first["id"], first["program"], first["peak"], first["asked"]) == ("B1", "12.1", "sim", 1000, 4096)
    assert first["spans"] == [0, 0, 10, 0, 1, 10, 40, 1, 2, 40, 60, 1, 3, 60, 160, 1, 4, 160, 170, 1]
    assert first["cost"] == pytest.approx(100 / 3600 * (0.08 + 0.016), abs=1e-6)
    assert (second["label"], ENDINGS[second["ending"]], second["exit"]) == ("12.2", "failed", 1)
    assert tuple(data["phases"]) == PHASES


def test_the_page_needs_nothing_from_anywhere(made):
    outline = page([made()])
    for tag, attributes in outline.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not {"src", "href", "srcset", "action"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#p)", _part("page.css") + _part("jobs.html"))
    assert not re.search(r"fetch\(|XMLHttp|WebSocket|import\(|innerHTML|outerHTML|document\.write|eval\(", _part("page.js"))


def test_only_this_pages_own_script_may_run(made):
    import base64
    import hashlib

    outline = page([made()])
    [policy] = [a["content"] for tag, a in outline.tags if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(outline.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_what_jobs_are_called_is_text_and_nothing_else(made):
    evil = made(1, dag_node=EVIL, executable=f"/bin/{EVIL}", queue=EVIL, hold_reason=EVIL, state=RunState.HELD)
    outline = page([evil, made(2)], title=EVIL, prices=None)
    assert [tag for tag, _ in outline.tags].count("script") == 2
    text = render(examine([evil], T + 1000), EVIL)
    assert "<script>alert" not in text
    assert text.count("<script") == 2
    assert outline.data()["jobs"][0][0] == EVIL
    text.encode("utf-8")


def test_every_label_points_somewhere_and_every_part_has_a_name(made):
    outline = page([made(n) for n in range(3)])
    for tag, attributes in outline.tags:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in outline.ids
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes.get("aria-label")
    for wanted in ("timeline", "detail", "rows", "find", "ending", "sort", "data"):
        assert wanted in outline.ids
    for used in set(re.findall(r'\$\("([a-z]+)"\)', _part("page.js"))):
        assert used in outline.ids, used
    [timeline] = [a for _, a in outline.tags if a.get("id") == "timeline"]
    assert timeline["tabindex"] == "0"
    assert "Arrow up and down" in timeline["aria-label"]


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, two):
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


def test_colours_have_the_contrast_that_wcag_asks_for_in_light_and_in_dark():
    blocks = re.findall(r":root \{(.*?)\}", _part("page.css"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block))
        for words in ("ink", "faint", "bad", "mark"):  # text: 4.5
            assert contrast(colours[words], colours["paper"]) >= 4.5, words
        for words in ("ink", "faint", "bad"):
            assert contrast(colours[words], colours["panel"]) >= 4.5, words
        for phase in PHASES:  # graphics: 3
            assert contrast(colours[phase], colours["paper"]) >= 3, phase


@pytest.mark.parametrize("count", [0, 1])
def test_no_job_and_one_job_make_a_page(made, count):
    text = render(examine([made(n) for n in range(count)], T + 1000), "Jobs")
    assert ("There is no job here." in text) == (count == 0)
    Outline(text)


def test_ten_thousand_jobs_stay_a_few_megabytes_and_more_are_cut_to_the_longest(made):
    size = len(render(examine((made(n, dag_node=f"analyze_ID{n:07}") for n in range(MOST_ROWS)), T + 1000, PRICES), "Jobs"))
    assert size < 4e6
    histories = [made(n, accepted=T + 100 if n < 10 else T) for n in range(MOST_ROWS + 10)]
    outline = page(histories)
    names = {job[2] for job in outline.data()["jobs"]}
    assert len(names) == MOST_ROWS
    assert not names & {f"12-{n}-aaaa" for n in range(10)}


def test_csv_has_a_line_for_each_job_and_no_formula(made):
    text = as_csv(examine([made(1, dag_node="=cmd|'/c calc'!A1"), made(2, hold_reason='a "b",\nc')], T + 1000, PRICES))
    first, second = csv.DictReader(io.StringIO(text))
    assert tuple(first) == COLUMNS
    assert first["dag_node"] == "'=cmd|'/c calc'!A1"
    assert second["hold_reason"] == 'a "b",\nc'
    assert (first["waiting_s"], first["running_s"], first["memory_mib"]) == ("30.0", "100.0", "4096")
    assert first["accepted"] == "2026-11-18T11:06:40Z"


def test_json_has_the_figures_and_the_jobs(made):
    value = json.loads(as_json(examine([made(1), made(2)], T + 1000, PRICES)))
    assert value["phases"][3]["total_s"] == 200
    assert value["memory"][0]["advised_mib"] == 1280
    assert value["cost"]["total"] == pytest.approx(2 * 100 / 3600 * (0.08 + 0.016))
    assert value["calls"]["submit"] == 2
    assert [job["condor_id"] for job in value["jobs"]] == ["12.1", "12.2"]


# In a browser

QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --window-size=1200,1000 --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
)


def started(options, driver):
    """A browser; on a machine that is busy with other tests it may take more than one try until it answers."""
    for _ in range(3):
        with contextlib.suppress(SessionNotCreatedException):
            return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


@pytest.fixture
def browser(tmp_path):
    chromium, driver = needs.programs("chromium", "chromedriver", of="Debian: chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in (*QUIET.split(), f"--user-data-dir={tmp_path}/profile"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = started(options, driver)
    try:
        browser.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        yield browser
        assert browser.get_log("browser") == []
    finally:
        browser.quit()


class Page:
    """A page of jobs in the browser, and what a person sees and does there."""

    def __init__(self, browser, path, histories, title="Jobs"):
        path.write_text(render(examine(histories, T + 1000, PRICES), title), encoding="utf-8")
        self.browser = browser
        browser.get(f"file://{path}")

    def at(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def picture(self):
        """The timeline as it is drawn, once all that is due has been drawn."""
        self.browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        return self.browser.execute_script("return document.getElementById('canvas').toDataURL()")

    def box(self):
        """Left, top, width and height of the timeline, as the mouse has them."""
        script = "const r = arguments[0].getBoundingClientRect(); return [r.left, r.top, r.width, r.height]"
        return self.browser.execute_script(f"arguments[0].scrollIntoView(); {script}", self.at("#timeline"))

    def mouse(self, kind, x, y, **more):
        self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **more})

    def click(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def wide(self, width):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.fixture
def shown(made, browser, tmp_path):
    """A page with jobs N0 to N59, each a second longer than the one before."""
    return Page(browser, tmp_path / "report.html", [made(n, dag_node=f"N{n}", over=T + 170 + n) for n in range(60)])


def test_in_a_browser_a_job_is_chosen_by_a_click_on_the_timeline(shown):
    left, top, width, _ = shown.box()
    before = shown.picture()
    shown.click(left + width / 2, top + 26 + 18 * 2 + 9)
    assert shown.at("#detail strong").text == "N2: succeeded"
    assert shown.at('#rows tr[aria-selected="true"]').text.startswith("N2 12.2")
    assert shown.picture() != before
    shown.click(left + width / 2, top + 5)  # the axis is no job
    assert shown.at("#detail strong").text == "N2: succeeded"
    shown.mouse("mouseWheel", left + width / 2, top + 100, deltaX=0, deltaY=18 * 10)
    WebDriverWait(shown.browser, 60).until(lambda _: shown.at("#timeline").get_property("scrollTop") == 18 * 10)
    shown.click(left + width / 2, top + 26 + 18 * 2 + 9)
    assert shown.at("#detail strong").text == "N12: succeeded"


def test_in_a_browser_the_timeline_is_zoomed_and_moved_by_wheel_keys_and_buttons(shown):
    left, top, width, _ = shown.box()
    whole = shown.picture()
    wheel = {"deltaX": 0, "modifiers": 2}  # with Ctrl
    shown.mouse("mouseWheel", left + width / 2, top + 100, deltaY=-100, **wheel)
    WebDriverWait(shown.browser, 60).until(lambda _: shown.picture() != whole)
    closer = shown.picture()
    shown.at("#timeline").send_keys(Keys.ARROW_RIGHT)
    moved = shown.picture()
    assert moved != closer
    shown.at("#timeline").send_keys("+")
    assert shown.picture() not in (closer, moved)
    shown.at("#timeline").send_keys("0")
    assert shown.picture() == whole
    shown.at("#closer").click()
    by_button = shown.picture()
    assert by_button != whole
    shown.at("#wider").click()
    assert shown.picture() == whole
    shown.at("#closer").click()
    shown.at("#closer").click()
    shown.at("#all").click()
    assert shown.picture() == whole
    shown.at("#timeline").send_keys("+")
    assert shown.picture() == by_button
    shown.at("#timeline").send_keys("-")
    assert shown.picture() == whole


def test_in_a_browser_that_is_dark_the_page_and_the_timeline_are_too(shown):
    light = shown.picture()
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    shown.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    WebDriverWait(shown.browser, 60).until(lambda _: shown.picture() != light)
    assert shown.browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"
    pixel = """
        const box = document.getElementById("timeline").clientWidth, canvas = document.getElementById("canvas");
        return [...canvas.getContext("2d").getImageData(190 + (box - 202) * 110 / 229, 26 + 9, 1, 1).data]"""
    assert shown.browser.execute_script(pixel) == [0x6C, 0xB2, 0xFF, 255]  # the first job runs then


@pytest.mark.parametrize("width", [360, 768])
def test_in_a_narrow_window_nothing_is_cut_and_only_tables_and_pictures_scroll_sideways(shown, width):
    shown.wide(width)
    WebDriverWait(shown.browser, 60).until(lambda _: shown.box()[2] < width)
    script = "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
    needed, there = shown.browser.execute_script(script)
    assert needed <= there
    shown.picture()
    assert shown.at("#canvas").size["width"] <= shown.box()[2]
    left, top, inner, _ = shown.box()
    shown.click(left + inner / 2, top + 26 + 9)
    assert shown.at("#detail strong").text == "N0: succeeded"


def test_in_a_browser_without_a_network_jobs_are_found_chosen_sorted_and_told(made, browser, tmp_path):
    histories = [made(n, dag_node=EVIL if n == 3 else f"N{n}", over=T + 170 + n) for n in range(60)]
    histories.append(made(60, dag_node="H", state=RunState.HELD, hold_reason="It needed <b>more</b>.", exit_code=None))
    path = tmp_path / "report.html"
    path.write_text(render(examine(histories, T + 1000, PRICES), EVIL), encoding="utf-8")
    browser.get(f"file://{path}")

    def at(selector):
        return browser.find_element(By.CSS_SELECTOR, selector)

    assert at("#count").text == "61 jobs"
    assert at("#page").text == "page 1 of 3"
    at("#timeline").send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert at("#detail strong").text == "N1: succeeded"
    at("#timeline").send_keys(Keys.END)
    assert at("#detail strong").text == "H: held"
    assert "It needed <b>more</b>." in at("#detail").text
    assert at("#page").text == "page 3 of 3"
    assert at('#rows tr[aria-selected="true"]').text.startswith("H 12.60")
    Select(at("#ending")).select_by_value("held")
    assert at("#count").text == "1 of 61 jobs"
    Select(at("#ending")).select_by_value("")
    at("#find").send_keys("n59")
    assert at("#count").text == "1 of 61 jobs"
    at("#find").send_keys(Keys.BACKSPACE * 3)
    at("th[data-sort=total] button").click()
    assert at("th[data-sort=total]").get_attribute("aria-sort") == "descending"
    assert at("#rows tr").text.startswith("N59")
    at("#rows tr button").click()
    assert at("#detail strong").text == "N59: succeeded"
    at("#after").click()
    assert at("#page").text == "page 2 of 3"
    # Something is drawn, and zooming changes it.
    pixels = "const c = document.getElementById('canvas'); return c.toDataURL().length + ':' + c.toDataURL()"
    before = browser.execute_script(pixels)
    at("#closer").click()
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert browser.execute_script(pixels) != before
    assert browser.execute_script("return document.querySelectorAll('script').length") == 2


def test_in_a_browser_ten_thousand_jobs_are_there_and_can_be_searched(made, browser, tmp_path):
    path = tmp_path / "report.html"
    histories = (made(n, dag_node=f"analyze_ID{n:07}") for n in range(10_000))
    path.write_text(render(examine(histories, T + 1000, PRICES), "Jobs"), encoding="utf-8")
    browser.get(f"file://{path}")
    assert browser.find_element(By.ID, "count").text == "10000 jobs"
    browser.find_element(By.ID, "find").send_keys("ID0009999")
    assert browser.find_element(By.ID, "count").text == "1 of 10000 jobs"
    assert len(browser.find_elements(By.CSS_SELECTOR, "#rows tr")) == 1
