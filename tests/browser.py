"""A page as a headless Chromium sees it, through the pipe of its debugging protocol: no package is needed."""
from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')
OPTIONS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
           '--disable-background-networking', '--disable-component-update', '--remote-debugging-pipe')
PATIENCE = 120


def find_browser():
    """Return the path of a Chromium; a test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or pytest.skip('pages are opened with a headless Chromium, such as that of apt install chromium')


class Browser:
    """One process of the browser.

    Args:
        profile: A folder that it may fill.
    """

    def __init__(self, profile):
        (child_in, self.out), (self.into, child_out) = os.pipe(), os.pipe()
        # The browser reads from descriptor 3 and writes to 4, which may be the ones that the pipes have got.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (child_in, child_out)]
        command = ['bash', '-c', 'exec "$@" 3<&{} 4>&{}'.format(*ends), 'bash', find_browser(), *OPTIONS,
                   f'--user-data-dir={profile}']
        self.process = subprocess.Popen(command, pass_fds=ends, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        for end in (child_in, child_out, *ends):
            os.close(end)
        self.rest, self.number, self.events = b'', 0, []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        os.close(self.out)
        os.close(self.into)

    def receive(self):
        """Return the next message, an answer or an event."""
        while b'\0' not in self.rest:
            if not select.select([self.into], [], [], PATIENCE)[0]:
                raise RuntimeError(f'the browser has said nothing for {PATIENCE} seconds')
            got = os.read(self.into, 1 << 16)
            if not got:
                raise RuntimeError('the browser has ended')
            self.rest += got
        message, _, self.rest = self.rest.partition(b'\0')
        return json.loads(message)

    def ask(self, method, session=None, **params):
        """Send a command, keep the events that come before its answer, and return the answer."""
        self.number += 1
        message = dict(id=self.number, method=method, params=params, **({'sessionId': session} if session else {}))
        os.write(self.out, json.dumps(message).encode() + b'\0')
        while True:
            answer = self.receive()
            if answer.get('id') == self.number:
                if 'error' in answer:
                    raise RuntimeError(f'{method}: {answer["error"]}')
                return answer['result']
            self.events.append(answer)


def open_page(path, profile):
    """Open a file; return what is wrong with it, and its pictures.

    Args:
        path: Of the page.
        profile: A folder for the browser.

    Returns:
        The sentences of the console, of errors and of failed requests, and the addresses that were asked for besides
        the page and what lies inside it; and for each picture its width in pixels, 0 where it cannot be shown.
    """
    url = Path(path).resolve().as_uri()
    with Browser(profile) as browser:
        target = browser.ask('Target.createTarget', url='about:blank')['targetId']
        session = browser.ask('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            browser.ask(f'{domain}.enable', session)
        browser.ask('Page.navigate', session, url=url)
        while not any(event['method'] == 'Page.loadEventFired' for event in browser.events):
            browser.events.append(browser.receive())
        widths = browser.ask('Runtime.evaluate', session, returnByValue=True,
                             expression='[...document.images].map(image => image.naturalWidth)')['result']['value']
        return [said for said in map(wrong, browser.events) if said and said != url], widths


def wrong(event):
    """Return what an event tells of a fault, or the address that it asks for."""
    params = event.get('params', {})
    if event['method'] == 'Runtime.consoleAPICalled':
        return f'{params["type"]}: {[argument.get("value") for argument in params["args"]]}'
    if event['method'] == 'Runtime.exceptionThrown':
        return params['exceptionDetails'].get('exception', {}).get('description') or params['exceptionDetails']['text']
    if event['method'] == 'Log.entryAdded':
        return params['entry']['text']
    if event['method'] == 'Network.requestWillBeSent' and not params['request']['url'].startswith('data:'):
        return params['request']['url']
    return None
