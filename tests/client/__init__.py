"""Tests of the JavaScript client: in Node and in browsers, through a proxy that fails."""
