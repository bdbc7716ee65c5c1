// SPDX-License-Identifier: LGPL-2.1-or-later
// libxml2's tree as domain-xml*.c read and write it; nobody else includes this. Elements and
// attributes are those without a namespace, like all of libvirt's own.
#pragma once

#include <glib.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <stdbool.h>

G_BEGIN_DECLS

G_DEFINE_AUTOPTR_CLEANUP_FUNC(xmlDoc, xmlFreeDoc)

// libvirt's own limit to a text in its protocol (REMOTE_STRING_MAX): it never gives a longer one.
#define VS_XML_BYTES_MAX (4u << 20)

// Reading. A document whose root has that name; a document type declaration, the only place where
// entities and files could come from, makes it invalid (VS_DOMAIN_XML_ERROR_INVALID).
xmlDoc *vs_xml_read(const char *xml, const char *root_name,
                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Sets VS_DOMAIN_XML_ERROR_INVALID: "reading <root_name> XML: …".
void vs_xml_set_invalid(GError **error, const char *root_name, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

// All take NULL for "no such element", so that a path may be followed without a test at each step.
// The first child element of that name, and the next sibling of the same name; NULL: none.
const xmlNode *vs_xml_child(const xmlNode *parent, const char *name);
const xmlNode *vs_xml_next(const xmlNode *element);
// An attribute and an element's text; NULL: none, or empty. Owned by the caller.
char *vs_xml_attribute(const xmlNode *element, const char *name);
char *vs_xml_text(const xmlNode *element);
bool vs_xml_attribute_is(const xmlNode *element, const char *name, const char *value);

// Writing. Values are escaped as XML needs it.
xmlDoc *vs_xml_new(const char *root_name);
xmlNode *vs_xml_add(xmlNode *parent, const char *name, const char *text);
// A value of NULL sets nothing.
void vs_xml_set(xmlNode *element, const char *name, const char *value);
// The text, without an XML declaration.
char *vs_xml_write(xmlDoc *document);

G_END_DECLS
