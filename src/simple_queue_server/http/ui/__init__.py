"""The web pages: what runs, what ran, and how to steer it. They work without JavaScript; ``ui.js`` makes them live."""
