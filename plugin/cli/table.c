// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/output.h"

#include "plugin/error.h"

#include <string.h>

// A name may have 128 characters and an image's path 4096: a cell shows what fits a line.
#define CELL_MAX_CHARACTERS 48

struct _VsTable {
    unsigned columns;
    size_t cell_max_characters;
    GPtrArray *cells; // char *, row after row, the titles first
};

VsTable *
vs_table_new(const char *const *titles, bool whole)
{
    VsTable *table = g_new0(VsTable, 1);
    table->columns = g_strv_length((char **)titles);
    table->cell_max_characters = whole ? G_MAXSIZE : CELL_MAX_CHARACTERS;
    table->cells = g_ptr_array_new_with_free_func(g_free);
    vs_table_add(table, titles);
    return table;
}

void
vs_table_free(VsTable *table)
{
    if (table == NULL)
        return;
    g_ptr_array_unref(table->cells);
    g_free(table);
}

void
vs_table_add(VsTable *table, const char *const *cells)
{
    for (unsigned i = 0; i < table->columns; i++) {
        const char *cell = cells[i] != NULL && *cells[i] != '\0' ? cells[i] : "-";
        g_ptr_array_add(table->cells, vs_error_escape(cell, table->cell_max_characters));
    }
}

// Columns of a terminal that a text takes.
static unsigned
display_width(const char *text)
{
    unsigned width = 0;
    for (; *text != '\0'; text = g_utf8_next_char(text)) {
        gunichar character = g_utf8_get_char(text);
        if (!g_unichar_iszerowidth(character))
            width += g_unichar_iswide(character) ? 2 : 1;
    }
    return width;
}

void
vs_table_print(const VsTable *table, GString *text)
{
    g_autofree unsigned *widths = g_new0(unsigned, table->columns);
    for (guint i = 0; i < table->cells->len; i++) {
        unsigned width = display_width(g_ptr_array_index(table->cells, i));
        widths[i % table->columns] = MAX(widths[i % table->columns], width);
    }
    for (guint i = 0; i < table->cells->len; i++) {
        const char *cell = g_ptr_array_index(table->cells, i);
        unsigned column = i % table->columns;
        g_string_append(text, cell);
        if (column + 1 == table->columns) {
            g_string_append_c(text, '\n');
            continue;
        }
        for (unsigned width = display_width(cell); width < widths[column] + 2; width++)
            g_string_append_c(text, ' ');
    }
}
