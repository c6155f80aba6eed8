"""The page in a real browser: sorts, filters, runs, samples, themes, a telephone, hostile text."""

import pytest
from made_results import EVIL, fail, make_cell, make_results, store, store_suite

from textgym.benchmarks.page.build import write_page
from textgym.models.tokenize import load_tokenizer

DARK, LIGHT = "rgb(22, 24, 27)", "rgb(255, 255, 255)"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    tokenizer = load_tokenizer()
    ids = {text: tokenizer(text)["input_ids"] for text in ("a b", "c d")}
    out = make_results(tmp_path_factory.mktemp("results"), ids)
    for seed in (0, 1):  # a second task, without samples or checkpoints
        store(out, make_cell("sft", seed, "toxicity"), reward=[0.4, 0.6], kl=0.0)
        store(out, make_cell("ppo", seed, "toxicity"), reward=[1.0, 1.1])
        fail(out, make_cell("best of 4", seed, "toxicity"))
    store_suite(out, {"name": EVIL, "description": EVIL, "agents": []})
    return write_page(out, pngs=False)[0].path


class Page:
    """The open page, which may ask for nothing but itself and complain of nothing."""

    def __init__(self, browser, path, **options):
        self.context = browser.new_context(**options)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(60_000)
        self.complaints, self.asked = [], []
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("console", self._hear)
        self.tab.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.context.route("**/*", self._route)
        self.url = path.as_uri()
        self.tab.goto(self.url)

    def _hear(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _route(self, route):
        if route.request.url == self.url:
            return route.continue_()
        self.asked.append(route.request.url)
        return route.abort()

    def one(self, selector):
        return self.tab.locator(selector)

    def agents(self):
        rows = self.one(".board:not([hidden]) tbody tr:not([hidden])")
        return rows.evaluate_all("rows => rows.map(row => row.dataset.agent)")

    def draw_all(self):
        """Scrolls through the page, so that every chart of the task is drawn."""
        charts = self.one("figure:not([hidden]) .chart")
        for i in range(charts.count()):
            charts.nth(i).scroll_into_view_if_needed()
            charts.nth(i).locator("svg").first.wait_for()
        return charts.count()

    def close(self):
        self.context.close()
        assert self.complaints == []
        assert self.asked == []


@pytest.fixture
def page(chromium, written):
    page = Page(chromium, written, viewport={"width": 1200, "height": 900}, color_scheme="light")
    yield page
    page.close()


def test_every_chart_is_drawn_for_every_task(page):
    assert page.draw_all() == 9
    page.one("#task").select_option("toxicity")
    assert page.one("#samples-note").text_content() == "This folder keeps no samples of this task."
    assert page.one("#browser").is_hidden()
    assert page.draw_all() == 5
    assert (
        "checkpoints" in page.one("#over-optimization figure:not([hidden]) .missing").inner_text()
    )


def test_sorting_by_mouse_and_keyboard(page):
    start = page.agents()
    assert start == ["ppo", "best of 4", "sft", EVIL]
    reward = page.one('.board:not([hidden]) th[data-key="0"]')
    reward.locator(".sort").click()
    assert reward.get_attribute("aria-sort") == "descending"
    assert page.agents() == start
    reward.locator(".sort").press("Enter")
    assert reward.get_attribute("aria-sort") == "ascending"
    assert page.agents() == start[::-1]
    assert page.one(".board:not([hidden]) th[aria-sort]").count() == 1
    # Less KL is better and comes first; an agent's own estimate counts.
    page.one('.board:not([hidden]) th[data-key="2"] .sort').press("Space")
    assert page.agents() == ["sft", "best of 4", EVIL, "ppo"]
    page.one('.board:not([hidden]) th[data-key="agent"] .sort').click()
    assert page.agents() == sorted(start, key=str.lower)


def test_holes_come_last_either_way(page):
    page.one("#task").select_option("toxicity")
    reward = page.one('.board:not([hidden]) th[data-key="0"] .sort')
    reward.click()
    assert page.agents() == ["ppo", "sft", "best of 4"]
    reward.click()
    assert page.agents() == ["sft", "ppo", "best of 4"]


def test_filters_by_name_and_seeds(page):
    page.one("#agent-filter").fill("P")
    assert page.agents() == ["ppo", EVIL]  # `script` has a p
    page.one("#seed-filter").fill("2")
    assert page.agents() == ["ppo"]
    assert page.one("#shown").text_content() == "1 of 4 agents"
    page.one("#agent-filter").fill("")
    assert page.agents() == ["ppo", "best of 4", "sft"]


def test_a_number_leads_to_its_definition_and_its_runs(page):
    page.one(".board:not([hidden]) tr[data-agent=ppo] .number").first.click()
    dialog = page.one("#runs")
    assert dialog.is_visible()
    assert page.one("#runs-title").text_content() == "summarize, ppo: reward"
    cells = page.one("#runs-table tr:nth-child(3) td").all_text_contents()
    assert cells == ["1", "1.05", "–", "2 s", "0123456789", "summarize/ppo/seed-1"]
    assert page.one("#runs-table a").last.get_attribute("href") == "./summarize/ppo/seed-1/"
    page.tab.keyboard.press("Escape")
    assert dialog.is_hidden()
    page.one(".board:not([hidden]) th[data-key='0'] .what").click()
    assert page.tab.url.endswith("#def-reward")
    assert page.one("#def-reward").is_visible()
    assert page.one("div:target dt").text_content() == "reward"


def test_failures_and_warnings_are_said_with_the_runs(page):
    page.one(".board:not([hidden]) tbody tr").last.locator(".number").first.click()
    notes = page.one("#runs-notes p").all_text_contents()
    assert notes == ["seed 1: step 3: the loss is NaN", f"Seed 0, ratio: {EVIL} a hint"]


def test_samples_side_by_side_token_by_token(page):
    page.one("#samples").scroll_into_view_if_needed()
    names = page.one("#answers h3").all_text_contents()
    assert "ppo" in names
    answers = page.one("#answers > section").nth(names.index("ppo"))
    tokens = answers.locator(".answer").last.locator(".text span")
    assert "".join(tokens.all_text_contents()) == "c d"
    assert tokens.first.get_attribute("title") == "log π −0.25, log π_ref −1.00, difference 0.75"
    assert tokens.first.evaluate("e => e.style.backgroundColor") == "rgba(0, 114, 178, 0.125)"
    tokens.first.hover()
    assert "difference 0.75" in page.one("#token").text_content()
    page.one("#colour").select_option("reference")
    assert tokens.first.evaluate("e => e.style.backgroundColor").startswith("rgba(230, 159, 0")
    page.one("#next").click()
    assert page.one("#asked").text_content() == f"{EVIL} 1"
    assert page.one("#next").is_disabled()
    page.one("#previous").press("Enter")
    assert page.one("#asked").text_content() == f"{EVIL} 0"


def test_agents_of_the_samples_are_found_by_typing(page):
    first = page.one("#columns input").first
    first.fill("best")
    first.press("Tab")
    assert first.input_value() == "best of 4"
    first.fill("nobody")
    first.press("Tab")
    assert first.input_value() == "best of 4"
    first.fill("")
    first.press("Tab")
    assert page.one("#answers > section").count() == 3


def test_hostile_text_is_shown_and_never_run(page):
    page.draw_all()
    assert page.one("h1").text_content() == EVIL
    assert page.one("img").count() == 0
    assert page.one("script").count() == 3
    shown = page.one("#answers > section .text").all_text_contents()
    assert EVIL in shown
    assert "</script>" in shown
    # The second wall: even markup that got into the page does not run.
    page.tab.evaluate("html => { document.querySelector('h1').innerHTML = html; }", EVIL)
    page.tab.wait_for_timeout(300)
    assert page.one("h1 img").count() == 1
    page.complaints = [c for c in page.complaints if "Content Security Policy" not in c]
    page.asked = [url for url in page.asked if not url.endswith("/x")]


def test_one_agent_is_highlighted_everywhere(page):
    page.draw_all()
    page.one("#focus").select_option("ppo")
    lit = page.one("tr.lit:visible").evaluate_all("rows => rows.map(row => row.dataset.agent)")
    assert lit == ["ppo"]
    marks = page.one("#kl figure:not([hidden]) .mark-symbol.role-mark path")
    page.tab.wait_for_timeout(300)
    faint = marks.evaluate_all("paths => paths.filter(p => p.getAttribute('opacity') < 0.1).length")
    assert 0 < faint < marks.count()
    page.one("#focus").select_option("")


def test_dark_and_light(page, chromium, written):
    ground = "() => getComputedStyle(document.body).backgroundColor"
    page.draw_all()
    assert page.tab.evaluate(ground) == LIGHT
    page.one("#theme").click()
    assert page.tab.evaluate(ground) == DARK
    chart = page.one("#kl figure:not([hidden]) .chart svg")
    page.tab.wait_for_function(
        "() => document.querySelector('#kl .chart svg').style.backgroundColor === 'rgb(22, 24, 27)'"
    )
    assert chart.count() == 1
    assert page.one("#theme").get_attribute("aria-pressed") == "true"
    other = Page(chromium, written, color_scheme="dark")
    assert other.tab.evaluate(ground) == DARK
    assert other.one("#theme").text_content() == "light"
    other.close()


def test_a_telephone_does_not_scroll_sideways(chromium, written):
    phone = Page(chromium, written, viewport={"width": 360, "height": 740}, color_scheme="dark")
    phone.draw_all()
    wide = phone.tab.evaluate("document.documentElement.scrollWidth")
    assert wide == 360
    phone.one(".board:not([hidden]) tbody tr").last.locator(".number").first.click()
    box = phone.one("#runs").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    phone.close()
