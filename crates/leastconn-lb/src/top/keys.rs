//! Key bindings.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::view::{Action, Tab, View};

/// What `?` shows.
pub(super) const HELP: &[(&str, &str)] = &[
    ("1 to 5", "select a table"),
    ("Tab, ← →, h l", "next or previous table"),
    (
        "s",
        "sort by the next column, ▼ largest first, ▲ smallest first",
    ),
    ("r", "reverse the order"),
    ("/", "search clients and connections, Esc clears the search"),
    ("↑ ↓, k j", "scroll by a line"),
    ("PgUp, PgDn, space", "scroll by a page"),
    ("Home, End, g G", "first or last line"),
    ("?", "this list; any key closes it"),
    ("q, Esc", "quit"),
];

/// Number of rows that the page keys scroll.
const PAGE: usize = 20;

impl View {
    pub(super) fn press(&mut self, key: KeyEvent) -> Action {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Action::Quit;
        }
        if self.typing {
            return self.type_in(key.code);
        }
        if self.has_help {
            self.has_help = false;
            return match key.code {
                KeyCode::Char('q') => Action::Quit,
                _ => Action::Draw,
            };
        }
        match key.code {
            KeyCode::Char('q') => return Action::Quit,
            // Esc first clears the search, and quits only if the search is empty.
            KeyCode::Esc if self.search().is_empty() => return Action::Quit,
            KeyCode::Esc => return self.search_for(String::new()),
            KeyCode::Char('/') => {
                self.typing = true;
                if !self.tab.is_searched() {
                    self.go_to(Tab::Connections);
                }
            }
            KeyCode::Char('?') => self.has_help = true,
            KeyCode::Char('s') => self.sort_by_next(),
            KeyCode::Char('r') => self.reverse_sort(),
            KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => self.go_to(self.tab.next()),
            KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => {
                self.go_to(self.tab.previous());
            }
            KeyCode::Char(digit @ '1'..='9') => {
                let number = usize::from(digit as u8 - b'1');
                if let Some(&tab) = Tab::ALL.get(number) {
                    self.go_to(tab);
                }
            }
            KeyCode::Down | KeyCode::Char('j') => self.table.scroll_down_by(1),
            KeyCode::Up | KeyCode::Char('k') => self.table.scroll_up_by(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.table.scroll_down_by(PAGE as u16),
            KeyCode::PageUp => self.table.scroll_up_by(PAGE as u16),
            KeyCode::Home | KeyCode::Char('g') => self.table.select_first(),
            KeyCode::End | KeyCode::Char('G') => self.table.select_last(),
            _ => {}
        }
        Action::Draw
    }

    fn type_in(&mut self, key: KeyCode) -> Action {
        match key {
            KeyCode::Enter => {
                self.typing = false;
                Action::Draw
            }
            KeyCode::Esc => {
                self.typing = false;
                self.search_for(String::new())
            }
            KeyCode::Backspace => {
                let mut text = self.search().to_owned();
                text.pop();
                self.search_for(text)
            }
            KeyCode::Char(c) => self.search_for(format!("{}{c}", self.search())),
            _ => Action::Draw,
        }
    }
}
