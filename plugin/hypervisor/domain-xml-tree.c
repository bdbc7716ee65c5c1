// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/domain-xml-tree.h"

#include <string.h>

#include "plugin/hypervisor/domain-xml.h"

G_DEFINE_AUTOPTR_CLEANUP_FUNC(xmlParserCtxt, xmlFreeParserCtxt)

// No entity is substituted, no DTD loaded and no blank dropped (a domain is passed on as it is);
// what is wrong is told by the parser's last error, not on stderr.
#define PARSER_OPTIONS (XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING)

void
vs_xml_set_invalid(GError **error, const char *root_name, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    g_autofree char *cause = g_strdup_vprintf(format, arguments);
    va_end(arguments);
    // The cause may quote a piece of the text, cut anywhere.
    g_autofree char *valid = g_utf8_make_valid(g_strchomp(cause), -1);
    g_set_error(error, VS_DOMAIN_XML_ERROR, VS_DOMAIN_XML_ERROR_INVALID, "reading <%s> XML: %s",
                root_name, valid);
}

// Stands in for libxml2's own handler of "<!DOCTYPE": ends the parsing before any entity or
// default attribute is declared.
static void
refuse_doctype(void *data, const xmlChar *name, const xmlChar *external_id,
               const xmlChar *system_id)
{
    xmlParserCtxt *parser = data;
    bool *has_doctype = parser->_private;
    *has_doctype = true;
    xmlStopParser(parser);
}

static bool
is_named(const xmlNode *node, const char *name)
{
    return node->type == XML_ELEMENT_NODE && !node->ns && xmlStrEqual(node->name, BAD_CAST name);
}

xmlDoc *
vs_xml_read(const char *xml, const char *root_name, GError **error)
{
    size_t length_bytes = strnlen(xml, VS_XML_BYTES_MAX + 1);
    if (length_bytes > VS_XML_BYTES_MAX) {
        vs_xml_set_invalid(error, root_name, "it is longer than %u bytes", VS_XML_BYTES_MAX);
        return NULL;
    }
    bool has_doctype = false;
    g_autoptr(xmlParserCtxt) parser = xmlNewParserCtxt();
    parser->_private = &has_doctype;
    parser->sax->internalSubset = refuse_doctype;
    // libvirt's texts are UTF-8, whatever a declaration in them says.
    g_autoptr(xmlDoc) document =
        xmlCtxtReadMemory(parser, xml, (int)length_bytes, NULL, "UTF-8", PARSER_OPTIONS);
    const xmlNode *root = document ? xmlDocGetRootElement(document) : NULL;

    if (has_doctype) {
        vs_xml_set_invalid(error, root_name, "it has a document type declaration");
        return NULL;
    }
    if (!root) {
        const char *message = parser->lastError.message;
        vs_xml_set_invalid(error, root_name, "line %d: %s", parser->lastError.line,
                           message ? message : "no element");
        return NULL;
    }
    if (!is_named(root, root_name)) {
        vs_xml_set_invalid(error, root_name, "the root is <%s>", (const char *)root->name);
        return NULL;
    }
    return g_steal_pointer(&document);
}

static const xmlNode *
first_named(const xmlNode *node, const char *name)
{
    while (node && !is_named(node, name))
        node = node->next;
    return node;
}

const xmlNode *
vs_xml_child(const xmlNode *parent, const char *name)
{
    return parent ? first_named(parent->children, name) : NULL;
}

const xmlNode *
vs_xml_next(const xmlNode *element)
{
    return first_named(element->next, (const char *)element->name);
}

// From libxml2's allocator to GLib's.
static char *
take(xmlChar *text)
{
    char *copy = text && text[0] ? g_strdup((const char *)text) : NULL;
    if (text)
        xmlFree(text);
    return copy;
}

char *
vs_xml_attribute(const xmlNode *element, const char *name)
{
    return element ? take(xmlGetNoNsProp(element, BAD_CAST name)) : NULL;
}

char *
vs_xml_text(const xmlNode *element)
{
    return element ? take(xmlNodeGetContent(element)) : NULL;
}

bool
vs_xml_attribute_is(const xmlNode *element, const char *name, const char *value)
{
    g_autofree char *found = vs_xml_attribute(element, name);
    return g_strcmp0(found, value) == 0;
}

xmlDoc *
vs_xml_new(const char *root_name)
{
    xmlDoc *document = xmlNewDoc(BAD_CAST "1.0");
    xmlDocSetRootElement(document, xmlNewDocNode(document, NULL, BAD_CAST root_name, NULL));
    return document;
}

// libxml2 takes only UTF-8, and complains on stderr about a path that isn't. Nothing can be done
// with such a path in XML: with the replacement character in it libvirt will not find the file.
xmlNode *
vs_xml_add(xmlNode *parent, const char *name, const char *text)
{
    g_autofree char *valid = text ? g_utf8_make_valid(text, -1) : NULL;
    return xmlNewTextChild(parent, NULL, BAD_CAST name, BAD_CAST valid);
}

void
vs_xml_set(xmlNode *element, const char *name, const char *value)
{
    if (!value)
        return;
    g_autofree char *valid = g_utf8_make_valid(value, -1);
    xmlNewProp(element, BAD_CAST name, BAD_CAST valid);
}

char *
vs_xml_write(xmlDoc *document)
{
    xmlBuffer *buffer = xmlBufferCreate();
    xmlNodeDump(buffer, document, xmlDocGetRootElement(document), 0, 1);
    char *text = g_strdup((const char *)xmlBufferContent(buffer));
    xmlBufferFree(buffer);
    return text;
}
