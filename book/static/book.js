// A page opened from a disk may not fetch the pages found, of which a search would show an excerpt; it lists them all the same.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
